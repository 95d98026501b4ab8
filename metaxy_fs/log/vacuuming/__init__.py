"""What may be deleted, since nobody needs it any more?"""
