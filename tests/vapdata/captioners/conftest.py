"""Lets the tests of this folder import `shown` and `bad_chat`: pytest's importlib mode puts no test folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
