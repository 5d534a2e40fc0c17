"""Parts of scripts/make-goldens.py."""
