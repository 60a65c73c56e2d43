package auth

import "testing"

// BenchmarkFind times the search for the client of a token, with the hash of it that
// no cache saves.
func BenchmarkFind(b *testing.B) {
	token := NewToken()
	d, err := Parse("clients.yaml", []byte("clients: [{name: a, namespaces: [a], tokens: ['"+HashLine(token)+"']}]"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Find("Bearer "+token, nil); err != nil {
			b.Fatal(err)
		}
	}
}
