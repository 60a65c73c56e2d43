package auth

import (
	"strings"
	"testing"
)

// BenchmarkFind searches for the client of a token, with the hash of it that no cache saves:
// of the right one, and of guesses. How long these take must not say how much is right. A
// thousand other clients are known.
func BenchmarkFind(b *testing.B) {
	token := NewToken()
	lines := []string{HashLine(token)}
	for range 1000 {
		lines = append(lines, HashLine(NewToken()))
	}
	d, err := Parse("clients.yaml", []byte("clients: [{name: a, namespaces: [a], tokens: ['"+strings.Join(lines, "', '")+"']}]"))
	if err != nil {
		b.Fatal(err)
	}
	last := len(token) - 1
	half := len(token) / 2
	for _, of := range []struct{ name, token string }{
		{"right", token},
		{"all but the last character", token[:last] + string(token[last]^1)},
		{"the first half", token[:half] + NewToken()[half:]},
		{"the prefix", NewToken()},
		{"nothing", strings.Repeat("x", len(token))},
		{"cut", token[:last]},
		{"longest", strings.Repeat("x", maxTokenBytes)},
		{"too long", strings.Repeat("x", maxTokenBytes+1)},
	} {
		b.Run(of.name, func(b *testing.B) {
			header := "Bearer " + of.token
			b.ReportAllocs()
			for b.Loop() {
				if c, err := d.Find(header, nil); (c != nil) != (of.name == "right") {
					b.Fatal(err)
				}
			}
		})
	}
}
