package memcached

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestKeys(t *testing.T) {
	x := strings.Repeat("x", 300)
	for _, tt := range []struct{ namespace, identifier, want string }{
		{"checkout", "user:42", "rl:checkout:user:42"},
		{"check:out", "10.0.0.7", "rl:check%3Aout:10.0.0.7"},
		{"a", "b c\r\n\x00\x7f%é{}", "rl:a:b%20c%0D%0A%00%7F%25%C3%A9{}"},
		{"a", x[:245], "rl:a:" + x[:245]},
		{"a", x[:246], "rl:a:" + x[:173] + "%sha256:ce9c090775241b7b7575a800bde54f45f6e24f0ae16b31dc02c767588b82d58d"},
		{"a", x[:247], "rl:a:" + x[:173] + "%sha256:"},
	} {
		got := string(appendKey([]byte("before "), "", tt.namespace, tt.identifier))
		got, _ = strings.CutPrefix(got, "before ")
		if !strings.HasPrefix(got, tt.want) || len(got) > 250 || len(got) > len(tt.want) && len(tt.identifier) != 247 {
			t.Errorf("the key of %q, %q has %d bytes: %s, want %s", tt.namespace, tt.identifier, len(got), got, tt.want)
		}
	}
}

// TestKeysAreApart looks for two identifiers that share a key. It tries names for which that
// is likely: similar ones, ones about as long as a key may be, and ones that consist of
// parts of keys, or of a whole key.
func TestKeysAreApart(t *testing.T) {
	names := map[string]string{} // by key
	word := rapid.SampledFrom([]string{"a", ":", "%", "3A", "%3A", "%sha256:", "rl:", strings.Repeat("x", 83), strings.Repeat("x", 240)})
	rapid.Check(t, func(rt *rapid.T) {
		namespace := strings.Join(rapid.SliceOfN(word, 1, 3).Draw(rt, "namespace"), "")
		identifier := strings.Join(rapid.SliceOfN(word, 1, 4).Draw(rt, "identifier"), "")
		for range 2 {
			key, name := string(appendKey(nil, "", namespace, identifier)), fmt.Sprintf("%q, %q", namespace, identifier)
			if other, taken := names[key]; taken && other != name {
				rt.Fatalf("%s and %s have the key %s", name, other, key)
			}
			names[key] = name
			// Another identifier may be the same text as this one's key.
			namespace, identifier, _ = strings.Cut(strings.TrimPrefix(key, "rl:"), ":")
		}
	})
}

func TestNamesAreApart(t *testing.T) {
	var limits []strategy.Limit
	for _, strat := range []strategy.Strategy{strategy.TokenBucket, strategy.GCRA} {
		for _, name := range []string{"", "a", "\x00", "\x01a", "\x05\x80\xa8\xd6\xb9\x07\x05"} {
			for _, rate := range []string{"5/s", "6/s", "5/m"} {
				for _, burst := range []uint64{5, 6} {
					limits = append(limits, storetest.Limit(t, strategy.Spec{Name: name, Rate: rate, Strategy: strat, Burst: burst}))
				}
			}
		}
	}
	for i := range limits {
		for j := range limits {
			l, m := &limits[i], &limits[j]
			if same := string(appendName(nil, l)) == string(appendName(nil, m)); same != l.SameCounter(m) {
				t.Errorf("%+v and %+v have one name: %t", l, m, same)
			}
		}
	}
}

// TestNames checks the names of counters in items. If they change, the counters in running
// servers are lost.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		spec strategy.Spec
		want string
	}{
		{strategy.Spec{Rate: "100/min"}, "\x01\x00\x64\x80\xb0\x9d\xc2\xdf\x01\x64"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 20}, "\x04\x00\x64\x80\xb0\x9d\xc2\xdf\x01\x14"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.GCRA, Name: "api"}, "\x06\x03api"},
	} {
		l := storetest.Limit(t, tt.spec)
		if got := string(appendName(nil, &l)); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.spec, got, tt.want)
		}
	}
}

// TestKeyPrefix has prefixes that could be taken for a part of another key.
func TestKeyPrefix(t *testing.T) {
	seen := map[string]string{}
	for _, prefix := range []string{"", "rl:", "rl:a:", "a:", "rl", "staging:"} {
		for _, namespace := range []string{"a", "rl", "b"} {
			for _, identifier := range []string{"b:c", "c", "%rl:b:c", "rl:b:c", strings.Repeat("x", 300)} {
				name := fmt.Sprintf("%q, %q, %q", prefix, namespace, identifier)
				key := string(appendKey(nil, prefix, namespace, identifier))
				if other := seen[key]; other != "" || len(key) > maxKeyBytes || !strings.HasPrefix(key, prefix) {
					t.Errorf("%s has the key %q of %s", name, key, other)
				}
				seen[key] = name
			}
		}
	}
}
