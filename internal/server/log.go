package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
)

// handshakes count and log TLS handshakes that fail.
type handshakes struct {
	failures *auth.Failures
	logger   *slog.Logger
	gate     lograte.Gate
}

// failed notes a handshake that failed, unless the client only went away, as probes of
// ports do.
func (h *handshakes) failed(from, problem string) {
	h.failures.Add(auth.Handshake)
	if n := h.gate.Pass(time.Now()); n > 0 {
		h.logger.Warn("a TLS handshake failed; look at the certificates of both sides", "peer", from, "error", problem, "handshakes", n)
	}
}

// loggedCredentials tell of handshakes that fail.
type loggedCredentials struct {
	credentials.TransportCredentials
	handshakes *handshakes
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *loggedCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) {
		c.handshakes.failed(conn.RemoteAddr().String(), err.Error())
	}
	return secure, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *loggedCredentials) Clone() credentials.TransportCredentials {
	return &loggedCredentials{c.TransportCredentials.Clone(), c.handshakes}
}

// newHTTPLog returns the logger of the http.Server of a port.
func newHTTPLog(h *handshakes, port string) *log.Logger {
	return log.New(&httpLog{h, newErrorLog(h.logger, port)}, "", 0)
}

// An httpLog takes the lines of an http.Server apart.
type httpLog struct {
	handshakes *handshakes
	rest       *errorLog
}

// Write implements io.Writer.
func (l *httpLog) Write(line []byte) (int, error) {
	problem, isHandshake := strings.CutPrefix(strings.TrimSpace(string(line)), "http: TLS handshake error from ")
	switch {
	case !isHandshake:
		return l.rest.Write(line)
	case !strings.HasSuffix(problem, ": EOF"):
		from, problem, _ := strings.Cut(problem, ": ")
		l.handshakes.failed(from, problem)
	}
	return len(line), nil
}

// An errorLog is an io.Writer for what the HTTP server of a port logs. Clients
// cause most of it, so each kind is logged only from time to time.
type errorLog struct {
	logger *slog.Logger
	port   string
	gates  [4]lograte.Gate // of the kinds in errorKinds, and of the rest
}

// errorKinds are what the lines begin with that a client, or a lack of file
// descriptors, can cause at will.
var errorKinds = [...]string{"http: TLS handshake error", "http: Accept error", "http: superfluous"}

func newErrorLog(logger *slog.Logger, port string) *errorLog {
	return &errorLog{logger: logger, port: port}
}

// maxErrorBytes is how much of such a line is logged.
const maxErrorBytes = 300

// Write implements io.Writer.
func (l *errorLog) Write(line []byte) (int, error) {
	kind := 0
	for kind < len(errorKinds) && !bytes.HasPrefix(line, []byte(errorKinds[kind])) {
		kind++
	}
	if n := l.gates[kind].Pass(time.Now()); n > 0 {
		text := strings.ToValidUTF8(string(line[:min(len(line), maxErrorBytes)]), "")
		l.logger.Warn("the HTTP server reports an error", "port", l.port, "error", strings.TrimSpace(text), "errors", n)
	}
	return len(line), nil
}

// A scrapeLog logs what goes wrong with scrapes, but not too often: whoever
// scrapes may go away in the middle, again and again.
type scrapeLog struct {
	logger *slog.Logger
	gate   lograte.Gate
}

// Println implements promhttp.Logger.
func (l *scrapeLog) Println(v ...any) {
	if n := l.gate.Pass(time.Now()); n > 0 {
		l.logger.Warn("metrics cannot be shown", "error", fmt.Sprint(v...), "scrapes", n)
	}
}
