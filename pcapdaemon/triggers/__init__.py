# See LICENSE for details.
"""
Alerts of other programs become requests, by templates of the configuration.
"""
