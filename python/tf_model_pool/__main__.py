# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool`."""

import sys

from tf_model_pool.cli import main

sys.exit(main())
