"""`locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`, with locust's web page."""

from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import CommandLineUser as CommandLineUser

add_options()
