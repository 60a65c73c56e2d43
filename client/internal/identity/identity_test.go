package identity

import (
	"encoding/base64"
	"testing"
)

func TestClientAddress(t *testing.T) {
	proxies := []string{"10.0.0.0/8", "::1", "::ffff:192.168.0.0/112"}
	for _, tt := range []struct {
		peer      string
		forwarded []string
		trusted   []string
		want      string
	}{
		{"192.0.2.1:1234", nil, nil, "192.0.2.1"},
		{"192.0.2.1:1234", []string{"198.51.100.7"}, nil, "192.0.2.1"},             // nobody is trusted
		{"192.0.2.1:1234", []string{"198.51.100.7"}, proxies, "192.0.2.1"},         // not this peer
		{"10.0.0.1:1234", []string{"198.51.100.7"}, proxies, "198.51.100.7"},       // the proxy says so
		{"10.0.0.1:1", []string{"6.6.6.6, 198.51.100.7"}, proxies, "198.51.100.7"}, // and the client wrote what is left of it
		{"10.0.0.1:1", []string{"6.6.6.6, 198.51.100.7, 10.0.0.2"}, proxies, "198.51.100.7"},
		{"10.0.0.1:1", []string{"6.6.6.6", "198.51.100.7", "10.0.0.2"}, proxies, "198.51.100.7"},
		{"10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, proxies, "10.0.0.3"}, // all are trusted
		{"10.0.0.1:1", []string{"198.51.100.7, unknown"}, proxies, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.7,"}, proxies, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.7:443"}, proxies, "198.51.100.7"},
		{"10.0.0.1:1", nil, proxies, "10.0.0.1"},
		{"192.168.0.9:1", []string{"[2001:db8:1:2:3::4]:443"}, proxies, "2001:db8:1:2::/64"},
		{"[::1]:1", []string{"2001:db8:1:2:ffff::9"}, proxies, "2001:db8:1:2::/64"},
		{"[::ffff:192.0.2.1]:1234", nil, nil, "192.0.2.1"},
		{"[fe80::1%eth0]:1", nil, nil, "fe80::/64"},
		{"@", nil, nil, ""},
	} {
		if got := MustTrust(tt.trusted).ClientAddress(tt.peer, tt.forwarded); got != tt.want {
			t.Errorf("%s, %q behind %v: %q, want %q", tt.peer, tt.forwarded, tt.trusted, got, tt.want)
		}
	}
}

func TestBearerSubject(t *testing.T) {
	jwt := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"user:42","exp":1}`)) + ".c2ln"
	for authorization, want := range map[string]string{
		"":                "",
		"Basic abc":       "",
		"Bearer ":         "",
		"Bearer " + jwt:   "user:42",
		"bearer  " + jwt:  "user:42",
		"Bearer a.b.c":    "token:845e30448809e2bc8958eb025bfc7952",
		"Bearer opaque":   "token:6d229884c1268bb0ab32d8da315d0fe5",
		"Bearer e30.e30.": "token:2c168bb011ce2543df31fbe947518b44",
	} {
		if got := BearerSubject(authorization); got != want {
			t.Errorf("%q: %q, want %q", authorization, got, want)
		}
	}
	if got, want := APIKey("secret"), "key:2bb80d537b1da3e38bd30361aa855686"; got != want {
		t.Errorf("a key is %q, want %q", got, want)
	}
	if got := APIKey(""); got != "" {
		t.Errorf("no key is %q", got)
	}
}
