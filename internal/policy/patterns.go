package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/glob"
	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// patterns finds, for an identifier, the value of the pattern that matches it
// best:
//
//   - one that is the identifier itself;
//   - else, if the identifier is an IP address, the longest prefix (CIDR) that
//     holds it;
//   - else the glob with the most bytes that are not *, and of those the first.
//
// A * in a glob stands for any bytes, or none. A backslash before one of * \ /
// . or : makes that character stand for itself, and a pattern with a backslash
// is never an address or a network. An address matches however it is written.
//
// A pattern that looks like a network or an address and is not is an error. As
// a literal identifier it would match nobody, and an exemption or an override
// would silently not apply. Spaces do not count. It looks like
//
//   - a network: what is before the first slash has only digits and dots, with at
//     least one dot, or only hex digits, dots and colons, with at least one colon,
//     also in brackets or with a zone; and what is after the slash has only digits
//     and dots, or is empty. So 10.0.0.0/33, 10.0/16, 10.0.0.0/255.0.0.0 and
//     2001:db8::/129 are errors, and 10/30, a/b, user:42/7 and 10.0.0.7/login are
//     identifiers;
//   - an IPv4 address: it has only digits and dots, with three dots. So 300.1.2.3
//     is an error; 1.2.3 and 1.2.3.4.5 are identifiers;
//   - an IPv6 address: it has only hex digits, dots and colons, with two colons
//     side by side. So 2001:db8::1::2 is an error; the MAC address
//     02:00:5e:10:00:01 and 10.0.0.7:8080 are identifiers.
//
// What one of these errors refuses can still be an identifier: 10.0.0.0\/33.
type patterns[T any] struct {
	exact map[string]T

	prefixes     map[netip.Prefix]T
	prefixLength []int // the lengths in prefixes, longest first

	// Most globs have one * at the end. These are looked up by what is before it.
	// The others are tried one after the other.
	starts      map[string]start[T]
	startLength []int         // the lengths in starts, longest first
	globs       []wildcard[T] // in the order in which they are tried

	count int // how many patterns were added
}

type start[T any] struct {
	value T
	order int
}

// A wildcard is a glob, cut at each *.
type wildcard[T any] struct {
	parts   []string
	literal int // bytes that are not *
	order   int // how many patterns were added before
	value   T
}

// add adds a pattern, or returns what is wrong with it. The caller must not add a
// pattern twice: see canonical.
func (p *patterns[T]) add(pattern string, value T) error {
	if prefix, ok := parsePrefix(pattern); ok {
		if masked := prefix.Masked(); masked != prefix {
			return fmt.Errorf("%s has bits beyond its prefix length; write %q", quote.Cut(pattern), masked)
		}
		p.addPrefix(prefix, value)
		return nil
	}
	if err := checkLooks(pattern); err != nil {
		return err
	}
	parts, err := cut(pattern)
	if err != nil {
		return err
	}
	literal := 0
	for _, part := range parts {
		literal += len(part)
	}
	p.count++
	switch {
	case literal > store.MaxIdentifierBytes:
		return fmt.Errorf("%s is longer than any identifier; write at most %d bytes", quote.Cut(pattern), store.MaxIdentifierBytes)
	case len(parts) == 1:
		put(&p.exact, parts[0], value)
	case len(parts) == 2 && parts[1] == "":
		put(&p.starts, parts[0], start[T]{value, p.count})
		p.startLength = insertLength(p.startLength, literal)
	default:
		at := len(p.globs)
		for at > 0 && p.globs[at-1].literal < literal {
			at--
		}
		p.globs = slices.Insert(p.globs, at, wildcard[T]{parts, literal, p.count, value})
	}
	return nil
}

func (p *patterns[T]) addPrefix(prefix netip.Prefix, value T) {
	put(&p.prefixes, prefix, value)
	p.prefixLength = insertLength(p.prefixLength, prefix.Bits())
}

func put[K comparable, T any](m *map[K]T, key K, value T) {
	if *m == nil {
		*m = map[K]T{}
	}
	(*m)[key] = value
}

// insertLength adds n to lengths, unless it is there. lengths are in descending
// order.
func insertLength(lengths []int, n int) []int {
	at, found := slices.BinarySearchFunc(lengths, n, func(a, b int) int { return b - a })
	if found {
		return lengths
	}
	return slices.Insert(lengths, at, n)
}

// parsePrefix returns the network that pattern is, and whether it is one. An
// address is the network of that address alone.
func parsePrefix(pattern string) (netip.Prefix, bool) {
	if strings.Contains(pattern, "/") { // which a zone, too, may have: fe80::1%eth0/64
		return ipaddr.ParsePrefix(pattern)
	}
	addr, ok := ipaddr.Parse(pattern)
	return netip.PrefixFrom(addr, addr.BitLen()), ok
}

// checkLooks refuses a pattern that is neither a network nor an address, and
// looks like one: see patterns.
func checkLooks(pattern string) error {
	text := strings.ReplaceAll(pattern, " ", "")
	if addr, length, slash := strings.Cut(text, "/"); slash {
		addr, _, _ = strings.Cut(strings.Trim(addr, "[]"), "%")
		dotted := strings.Contains(addr, ".") && consistsOf(addr, digits+".")
		colons := strings.Contains(addr, ":") && consistsOf(addr, hexDigits+".:")
		if (dotted || colons) && consistsOf(length, digits+".") {
			return fmt.Errorf(`%s is not a network; write one such as "10.0.0.0/8" or "2001:db8::/32", or, if it is an identifier, \/ for the slash`, quote.Cut(pattern))
		}
		return nil
	}
	switch {
	case strings.Count(text, ".") == 3 && consistsOf(text, digits+"."):
		return fmt.Errorf(`%s is not an IP address; write one such as "10.0.0.7", or, if it is an identifier, \. for a dot`, quote.Cut(pattern))
	case strings.Contains(text, "::") && consistsOf(text, hexDigits+".:"):
		return fmt.Errorf(`%s is not an IP address; write one such as "2001:db8::1", or, if it is an identifier, \: for a colon`, quote.Cut(pattern))
	}
	return nil
}

const (
	digits    = "0123456789"
	hexDigits = digits + "abcdefABCDEF"
)

// consistsOf reports whether s has no other bytes than those of set.
func consistsOf(s, set string) bool { return strings.Trim(s, set) == "" }

// canonical returns a text that is the same for two patterns if they match the
// same identifiers, however they are written.
func canonical(pattern string) string {
	if prefix, ok := parsePrefix(pattern); ok {
		return "network " + prefix.Masked().String()
	}
	parts, err := cut(pattern)
	if err != nil {
		return "invalid " + pattern
	}
	for i := range parts {
		parts[i] = strings.NewReplacer(`\`, `\\`, `*`, `\*`).Replace(parts[i])
	}
	return "glob " + strings.Join(parts, "*")
}

// cut cuts a pattern at each *, and removes the escaping backslashes.
func cut(pattern string) ([]string, error) {
	if pattern == "" {
		return nil, fmt.Errorf(`"" matches no identifier; write an identifier, or a pattern such as "partner-*" or "10.0.0.0/8"`)
	}
	var parts []string
	var part strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			if i == 0 || pattern[i-1] != '*' || part.Len() > 0 { // ** is *
				parts = append(parts, part.String())
				part.Reset()
			}
		case '\\':
			if i++; i == len(pattern) || strings.IndexByte(`*\/.:`, pattern[i]) < 0 {
				return nil, fmt.Errorf(`%s: a backslash stands before one of * \ / . and : that means itself; for a backslash, write two`, quote.Cut(pattern))
			}
			part.WriteByte(pattern[i])
		default:
			part.WriteByte(c)
		}
	}
	return append(parts, part.String()), nil
}

// match returns the value of the pattern that matches identifier best.
func (p *patterns[T]) match(identifier string) (value T, ok bool) {
	if value, ok = p.exact[identifier]; ok {
		return value, true
	}
	if p.prefixes != nil {
		if addr, isAddr := ipaddr.Parse(identifier); isAddr {
			for _, bits := range p.prefixLength {
				if bits > addr.BitLen() {
					continue
				}
				prefix, _ := addr.Prefix(bits) // no error: bits fit
				if value, ok = p.prefixes[prefix]; ok {
					return value, true
				}
			}
		}
	}
	var best start[T]
	literal := -1
	for _, n := range p.startLength {
		if n > len(identifier) {
			continue
		}
		if best, ok = p.starts[identifier[:n]]; ok {
			literal = n
			break
		}
	}
	for i := range p.globs {
		if g := &p.globs[i]; g.literal < literal || g.literal == literal && g.order > best.order {
			break
		} else if glob.Match(g.parts, identifier) {
			return g.value, true
		}
	}
	return best.value, ok
}
