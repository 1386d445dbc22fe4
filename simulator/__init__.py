"""A synthetic tutoring marketplace that behaves: it fills the raw tables of the contract and a separate
truth.
"""
