package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Patterns finds, for an identifier, the value of the pattern that matches it
// best:
//
//   - one that is the identifier itself;
//   - else, if the identifier is an IP address, the longest prefix (CIDR) that
//     holds it;
//   - else the glob with the most bytes that are not *, and of those the first.
//
// A * in a glob stands for any bytes, or none; \* and \\ for themselves. An
// address is matched in whichever way it is written.
type patterns[T any] struct {
	exact map[string]T

	prefixes     map[netip.Prefix]T
	prefixLength []int // those there are, longest first

	// Of the globs, those with their only * at the end are looked up by what is
	// before it, and the others tried one after the other.
	starts      map[string]start[T]
	startLength []int     // those there are, longest first
	globs       []glob[T] // in the order in which they are tried

	count int // of all that were added
}

type start[T any] struct {
	value T
	order int
}

// A glob is a pattern cut at each of its *.
type glob[T any] struct {
	parts   []string
	literal int // bytes that are not *
	order   int // how many patterns were added before
	value   T
}

// add adds a pattern. It reports what is wrong with it; whoever calls it makes
// sure that no pattern is added twice.
func (p *patterns[T]) add(pattern string, value T) error {
	if prefix, err := netip.ParsePrefix(pattern); err == nil {
		if masked := prefix.Masked(); masked != prefix {
			return fmt.Errorf("%q has bits beyond its %d: write %q", pattern, prefix.Bits(), masked)
		}
		p.addPrefix(prefix, value)
		return nil
	}
	if addr, ok := parseAddr(pattern); ok {
		p.addPrefix(netip.PrefixFrom(addr, addr.BitLen()), value)
		return nil
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
	case literal > maxIdentifierBytes:
		return fmt.Errorf("%s is longer than an identifier may be, which is %d bytes", quote.Cut(pattern), maxIdentifierBytes)
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
		p.globs = slices.Insert(p.globs, at, glob[T]{parts, literal, p.count, value})
	}
	return nil
}

// maxIdentifierBytes is how long an identifier may be.
const maxIdentifierBytes = 1024

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

// insertLength adds n to lengths, which are in descending order, if it is not
// there.
func insertLength(lengths []int, n int) []int {
	at, found := slices.BinarySearchFunc(lengths, n, func(a, b int) int { return b - a })
	if found {
		return lengths
	}
	return slices.Insert(lengths, at, n)
}

// canonical returns a text that two patterns share if they match the same.
func canonical(pattern string) string {
	if prefix, err := netip.ParsePrefix(pattern); err == nil {
		return prefix.Masked().String()
	}
	if addr, ok := parseAddr(pattern); ok {
		return netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	for strings.Contains(pattern, "**") && !strings.Contains(pattern, `\`) {
		pattern = strings.ReplaceAll(pattern, "**", "*")
	}
	return pattern
}

// cut cuts a pattern at each *, and takes the backslashes out of the parts.
func cut(pattern string) ([]string, error) {
	if pattern == "" {
		return nil, fmt.Errorf(`"" matches no identifier; give one, or a pattern such as "partner-*" or "10.0.0.0/8"`)
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
			if i++; i == len(pattern) || pattern[i] != '*' && pattern[i] != '\\' {
				return nil, fmt.Errorf(`%s: a \ stands before a * or a \ that is meant as such; write \\`, quote.Cut(pattern))
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
		if addr, isAddr := parseAddr(identifier); isAddr {
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
		} else if g.matches(identifier) {
			return g.value, true
		}
	}
	return best.value, ok
}

// matches reports whether g matches s: its first part at the start, its last at
// the end, and each of the others as far left as it will go in between.
func (g *glob[T]) matches(s string) bool {
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if len(s) < g.literal || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range g.parts[1 : len(g.parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// parseAddr returns the IP address that s is, if it is one: without its zone,
// and as IPv4 if that is what it means.
func parseAddr(s string) (netip.Addr, bool) {
	if s == "" || len(s) > maxAddrBytes || !isHex(s[0]) && s[0] != ':' {
		return netip.Addr{}, false // as most identifiers: an error would cost more
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap().WithZone(""), err == nil
}

// maxAddrBytes is enough for an address with a zone.
const maxAddrBytes = 64

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
