package main

import (
	"bytes"
	"encoding/pem"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// roots returns Mozilla's certificate authorities as PEM. With them the daemon verifies
// a Redis, or a collector of traces, that it reaches over TLS. They come from a module,
// and not from the machine that makes the image, so that all machines make the same. An
// authority that Mozilla trusts only for some certificates is left out, since PEM
// cannot say for which.
func roots() ([]byte, error) {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
