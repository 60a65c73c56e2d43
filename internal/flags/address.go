package flags

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address returns the Value of an address to connect to, as host:port. Without a
// port it gets defaultPort. It takes the other targets of gRPC, such as
// unix:/path and dns:///name, as they are.
func Address(to *string, defaultPort string) Value { return addressValue{to, defaultPort} }

type addressValue struct {
	to          *string
	defaultPort string
}

func (v addressValue) Set(text string) error {
	if strings.HasPrefix(text, "unix:") || strings.Contains(text, ":///") {
		*v.to = text
		return nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil { // it has no port, or it is an IPv6 address without brackets
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), ""
		if ip, err := netip.ParseAddr(host); strings.Contains(host, ":") && (err != nil || !ip.Is6()) {
			return v.problem()
		}
	}
	if port == "" {
		port = v.defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || text == "" || strings.ContainsAny(host, "/ @?#[]") {
		return v.problem()
	}
	*v.to = net.JoinHostPort(host, port)
	return nil
}

func (v addressValue) problem() error {
	return fmt.Errorf("write host or host:port, such as 127.0.0.1:%s", v.defaultPort)
}

func (v addressValue) String() string { return *v.to }
func (v addressValue) JSON() any      { return *v.to }
