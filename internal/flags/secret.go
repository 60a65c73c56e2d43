package flags

import (
	"net/url"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Hidden is shown in place of a password.
const Hidden = "xxxxx"

// WithoutPassword returns text, or, if it is a URL, text without its password.
// What may be a URL with a password and cannot be read is hidden whole.
func WithoutPassword(text string) string {
	u, err := url.Parse(text)
	switch {
	case err == nil && u.User != nil:
		return u.Redacted()
	case strings.Contains(text, "@"):
		return Hidden
	default:
		return text
	}
}

// Quote quotes a value for a message: cut short, and without passwords.
func Quote(text string) string {
	if strings.Contains(text, "@") {
		words := strings.Fields(text)
		for i := range words {
			words[i] = WithoutPassword(words[i])
		}
		text = strings.Join(words, " ")
	}
	return quote.Cut(text)
}
