package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// addressProblem says why nothing can listen on addr, or "".
func addressProblem(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case addr == "":
		return "it is empty"
	case err != nil && strings.Count(addr, ":") > 1:
		return "an IPv6 address needs brackets, as in [::1]:8081"
	case err != nil:
		return "it has no port"
	case !isPort(port):
		return "the port is not a number from 0 to 65535"
	case !isHost(host):
		return "the host is neither an IP address nor a name"
	}
	return ""
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// isHost reports whether text may be a host: nothing, an IP address, or a name,
// whose last part is not a number.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil || text == "" {
		return true
	}
	labels := strings.Split(strings.TrimSuffix(text, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notOfName) {
			return false
		}
	}
	_, err := strconv.Atoi(labels[len(labels)-1])
	return err != nil && len(text) < 255
}

func notOfName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isHeader reports whether name may be the name of an HTTP header: a token of
// RFC 9110.
func isHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return notOfName(r) && !strings.ContainsRune("!#$%&'*+.^`|~", r)
	})
}
