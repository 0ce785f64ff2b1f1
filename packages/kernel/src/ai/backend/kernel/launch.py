"""The script that the container runs. Kept to a few lines, for a script is compiled at every start while
modules are not."""

import os
import sys

sys.path.append(os.path.abspath(__file__).rsplit("/ai/backend/kernel/", 1)[0])

from ai.backend.kernel.main import main

sys.exit(main(sys.argv[1:]))
