package null

import (
	"net"

	"github.com/tidwall/redcon"
)

// serveRESP answers every command with the array that RL.ALLOW replies to the load of the
// benchmark, until l is closed: as many bytes cost as much to send.
func serveRESP(l net.Listener) error {
	return redcon.Serve(l, func(conn redcon.Conn, _ redcon.Command) {
		conn.WriteArray(5)
		for _, n := range [...]int64{1, 1_000_000_000, 999_999_997, 0, 456_789} {
			conn.WriteInt64(n)
		}
	}, nil, nil)
}
