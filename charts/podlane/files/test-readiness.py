"""`helm test`: asks the injector's Service whether it is ready, and looks at the certificate that it serves."""

import ssl
import sys
import time
import urllib.request

from cryptography import x509

host, port, metrics_port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
DAY = 86400

with urllib.request.urlopen(f"http://{host}:{metrics_port}/readyz", timeout=10) as answer:
    assert answer.status == 200, answer.read()

# Who signed it only API servers are told (caBundle), so it is the name and the time that are looked at.
certificate = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, port), timeout=10).encode())
names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
    x509.DNSName
)
assert host in names, f"the certificate is for {names}, not for {host}"
left = certificate.not_valid_after_utc.timestamp() - time.time()
assert left > DAY, f"the certificate is valid for {left:.0f} s only"
print(f"ready; the certificate is valid for {left / DAY:.0f} days")
