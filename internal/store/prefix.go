package store

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// MaxKeyPrefixBytes is how long the prefix of all keys in a remote store may be.
const MaxKeyPrefixBytes = 64

// CheckKeyPrefix returns why prefix may not come before all keys in a remote store. The
// bytes that it refuses have a meaning in keys, so that no key with a prefix is also
// one with another prefix, or with none.
func CheckKeyPrefix(prefix string) error {
	if len(prefix) > MaxKeyPrefixBytes {
		return fmt.Errorf("key prefix %s has %d bytes: write at most %d, such as \"staging:\"", quote.Cut(prefix), len(prefix), MaxKeyPrefixBytes)
	}
	for i := range len(prefix) {
		if c := prefix[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("{}%", c) >= 0 {
			return fmt.Errorf("key prefix %s: write printable ASCII without spaces, %%, { and }, such as \"staging:\"", quote.Cut(prefix))
		}
	}
	return nil
}
