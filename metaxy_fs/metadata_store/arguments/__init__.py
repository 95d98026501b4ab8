"""What does a caller mean by a feature, by a frame and by samples?"""
