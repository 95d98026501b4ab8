"""What does a store need of the place that keeps its rows, and in which order are several asked?"""
