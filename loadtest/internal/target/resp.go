package target

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// sockets are the connections of sessions, until the target is closed.
type sockets struct {
	mu   sync.Mutex // protects the following
	open []net.Conn
}

func (s *sockets) add(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, conn)
}

func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.open {
		_ = conn.Close()
	}
}

// A redis asks over the protocol of Redis: the identifiers of a call are a pipeline. Each
// has a connection of its own, as those of Redis's clients have.
type redis struct {
	options       *Options
	open          *sockets
	before, after string // the command around the identifier

	conn    net.Conn // nil: not connected yet
	replies *bufio.Reader
	text    []byte
}

func newRedis(o *Options, open *sockets) *redis {
	s := &redis{options: o, open: open}
	words := []string{"RL.ALLOW", o.Namespace, placeholder}
	if o.Protocol == Throttle {
		limit := throttleLimit(o)
		words = strings.Fields(fmt.Sprintf("THROTTLE %s %d %d %d %d", placeholder, limit.burst, limit.count, limit.seconds, o.Cost))
	} else {
		for i, l := range o.Limits {
			if i > 0 {
				words = append(words, "LIMIT")
			}
			words = append(words, l.GetRate(), "STRATEGY", strings.ToLower(l.GetStrategy().String()))
			if l.GetBurst() > 0 {
				words = append(words, "BURST", strconv.FormatUint(l.GetBurst(), 10))
			}
			if l.GetName() != "" {
				words = append(words, "NAME", l.GetName())
			}
		}
		if len(o.Limits) == 1 && o.Limits[0].GetStrategy() == ratelimitv1.Strategy_FIXED_WINDOW && o.Limits[0].GetName() == "" {
			words = words[:4] // it is the default, which callers leave out
		}
		if o.Policy != "" {
			words = []string{"RL.POLICY", o.Namespace, o.Policy, placeholder}
		}
		if o.Cost != 1 {
			words = append(words, "COST", strconv.FormatUint(o.Cost, 10))
		}
	}
	s.before, s.after, _ = strings.Cut(arrayOf(words), bulk(placeholder))
	return s
}

func bulk(text string) string { return "$" + strconv.Itoa(len(text)) + "\r\n" + text + "\r\n" }

func arrayOf(words []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "*%d\r\n", len(words))
	for _, w := range words {
		text.WriteString(bulk(w))
	}
	return text.String()
}

// Ask implements Session.
func (s *redis) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	s.text = s.text[:0]
	for _, id := range identifiers {
		s.text = append(s.text, s.before...)
		s.text = append(strconv.AppendInt(append(s.text, '$'), int64(len(id)), 10), "\r\n"...)
		s.text = append(append(s.text, id...), "\r\n"...)
		s.text = append(s.text, s.after...)
	}
	if _, err := s.conn.Write(s.text); err != nil {
		return err
	}
	for i := range verdicts {
		first, err := s.reply()
		if err != nil {
			return err
		}
		verdicts[i] = Denied
		if first == "1" {
			verdicts[i] = Allowed
		}
	}
	return nil
}

// connect connects until the target is closed.
func (s *redis) connect(ctx context.Context) (err error) {
	if s.conn, err = s.options.Link.Dial(ctx, s.options.Addr); err != nil {
		return err
	}
	s.open.add(s.conn)
	s.replies = bufio.NewReaderSize(s.conn, 32<<10)
	if token := s.options.Link.Token(); token != "" {
		if _, err := s.conn.Write([]byte(arrayOf([]string{"AUTH", token}))); err != nil {
			return err
		}
		_, err = s.reply()
	}
	return err
}

// reply reads a reply: an array of integers, of which it returns the first, or a line.
func (s *redis) reply() (first string, err error) {
	line, err := s.line()
	if err != nil || line[0] != '*' {
		return "", err
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < 1 {
		return "", fmt.Errorf("a reply begins with %.40q", line)
	}
	for i := range n {
		if line, err = s.line(); err != nil {
			return "", err
		}
		if i == 0 {
			first = "0"
			if string(line) == ":1" {
				first = "1"
			}
		}
	}
	return first, nil
}

// line reads a line, which is not an error.
func (s *redis) line() ([]byte, error) {
	line, err := s.replies.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, errors.New("a reply has an empty line")
	}
	if line = line[:len(line)-2]; line[0] == '-' {
		return nil, fmt.Errorf("the server replies %.200s", line[1:])
	}
	return line, nil
}
