"""The whole pipeline on real students: the Open University Learning Analytics Dataset."""
