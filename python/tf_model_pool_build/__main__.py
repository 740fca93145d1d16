# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool_build`, which ./build.sh runs."""

import sys

from tf_model_pool_build.commands import main

sys.exit(main())
