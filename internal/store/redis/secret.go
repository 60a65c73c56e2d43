package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

const (
	// maxSecretBytes is more than a password, or a token in its place, has.
	maxSecretBytes = 16 << 10
	// lookSecretEvery is how often a connection in use finds out that its password has
	// changed. Tokens live for minutes.
	lookSecretEvery = time.Second
)

// credentials are who this client says it is.
type credentials struct{ user, password string }

// A secret is the credentials in a file that others rewrite: a new password, or a token
// that expires. Each new connection has what the file says by then. A connection that is
// open says it to the server again, before it is used, because some servers close
// connections whose token has expired. It is safe for concurrent use.
type secret struct {
	file string
	user string // who has the password in the file
	both bool   // whether the file says the user too, before a colon
	log  *slog.Logger
	gate lograte.Gate // of what is logged of it

	every time.Duration // how often connections in use look

	state  atomic.Pointer[secretState]
	looked atomic.Int64 // when it was last read, in nanoseconds since the Unix epoch
	mu     sync.Mutex   // held to read the file: nobody waits for a file system that hangs
}

// A secretState is what a file has said.
type secretState struct {
	credentials
	version int // how often that has changed
}

// newSecret returns the credentials in file: the password of user, or both.
func newSecret(file, user string, both bool, log *slog.Logger) (*secret, error) {
	s := &secret{file: file, user: user, both: both, log: log, every: lookSecretEvery}
	said, err := s.read()
	if err != nil {
		return nil, err
	}
	s.state.Store(&secretState{credentials: said})
	s.looked.Store(time.Now().UnixNano())
	return s, nil
}

// look returns what the file says, or said lately.
func (s *secret) look() *secretState {
	if time.Now().UnixNano()-s.looked.Load() >= int64(s.every) {
		s.refresh()
	}
	return s.state.Load()
}

// provide returns what the file says now, for a new connection.
func (s *secret) provide(context.Context) (user, password string, err error) {
	s.refresh()
	said := s.state.Load()
	return said.user, said.password, nil
}

// refresh reads the file. While it cannot be read, as when somebody writes it, what it
// said before holds.
func (s *secret) refresh() {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	said, err := s.read()
	s.looked.Store(time.Now().UnixNano())
	was := s.state.Load()
	switch {
	case err != nil:
		if n := s.gate.Pass(time.Now()); n > 0 {
			s.log.Warn("redis: the credentials cannot be read, so those read before are used", "error", err, "times", n)
		}
	case said != was.credentials:
		s.state.Store(&secretState{said, was.version + 1})
		s.log.Info("redis: the credentials have changed", "file", s.file)
	}
}

// refused notes that a server does not accept what the file says.
func (s *secret) refused(reply string) {
	if n := s.gate.Pass(time.Now()); n > 0 {
		s.log.Warn("redis: the server refuses the credentials that the file has now; open connections keep those they had; write the right ones to the file",
			"file", s.file, "error", quote.Cut(reply), "times", n)
	}
}

// read returns what the file says, without the end of the line.
func (s *secret) read() (credentials, error) {
	option, example := "password file", "the password"
	if s.both {
		option, example = "auth file", "user:password, or the password,"
	}
	data, err := textfile.Read(s.file, maxSecretBytes)
	if _, isLong := errors.AsType[*textfile.LengthError](err); isLong {
		data, err = make([]byte, maxSecretBytes+1), nil // as said below
	}
	text := strings.TrimRight(string(data), "\r\n")
	said := credentials{s.user, text}
	if user, password, found := strings.Cut(text, ":"); found && s.both {
		said = credentials{user, password}
	}
	switch {
	case err != nil:
		return credentials{}, fmt.Errorf("%s %q: %w", option, s.file, err)
	case said.password == "", len(data) > maxSecretBytes, strings.ContainsAny(text, "\r\n"):
		return credentials{}, fmt.Errorf("%s %q: must have %s on one line, of at most %d bytes", option, s.file, example, maxSecretBytes)
	}
	return said, nil
}

// appendAuth appends the command that says who this client is.
func appendAuth(b []byte, who credentials) []byte {
	words := []string{"AUTH", who.password}
	if who.user != "" {
		words = []string{"AUTH", who.user, who.password}
	}
	b = append(b, '*', byte('0'+len(words)), '\r', '\n')
	for _, w := range words {
		b = strconv.AppendInt(append(b, '$'), int64(len(w)), 10)
		b = append(append(append(b, "\r\n"...), w...), "\r\n"...)
	}
	return b
}
