"""What strangers, mistakes and damage may put in: arguments of every public function, and files of every kind.

Whatever it is, only the library's own errors come of it, in a few seconds, and nothing absurd is taken.
"""
