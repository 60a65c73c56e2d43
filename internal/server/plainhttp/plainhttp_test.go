package plainhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const path = "/v1/should-allow"

// plain returns a plain request with a body.
func plain(body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// A pipe is one end of a connection in memory of which each direction can be closed alone.
type pipe struct {
	net.Conn // to read
	out      net.Conn
}

func newPipe() (client, server *pipe) {
	a, b := net.Pipe()
	c, d := net.Pipe()
	return &pipe{b, c}, &pipe{d, a}
}

func (p *pipe) Write(b []byte) (int, error)         { return p.out.Write(b) }
func (p *pipe) Close() error                        { return errors.Join(p.out.Close(), p.Conn.Close()) }
func (p *pipe) SetWriteDeadline(at time.Time) error { return p.out.SetWriteDeadline(at) }

// A port is a listener for pipes.
type port struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPort() *port { return &port{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *port) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects to p.
func (p *port) dial() *pipe {
	client, server := newPipe()
	p.conns <- server
	return client
}

// A serverUnderTest is a Server, or the http.Server in it.
type serverUnderTest interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
}

// An echo answers with what it is asked, and does what the first word of a body says.
type echo struct {
	wait chan struct{} // closed when "wait" may end
	here atomic.Int32  // requests that did not pass net/http
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := w.(*response); ok {
		e.here.Add(1)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err == nil && int64(len(body)) < r.ContentLength { // net/http has this error by itself
		err = io.ErrUnexpectedEOF
	}
	asked, argument, _ := strings.Cut(string(body), " ")
	n, _ := strconv.Atoi(argument)
	code := http.StatusOK
	switch asked {
	case "code":
		code = n
	case "wait":
		<-e.wait
	case "abort":
		panic(http.ErrAbortHandler)
	case "panic":
		panic("a bug")
	case "late":
		defer func() { w.Header().Set("Late", "1"); w.WriteHeader(500); _, _ = w.Write([]byte("late")) }()
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header().Set("RateLimit", `"a";r=1`)
	w.Header()["X-Odd"] = []string{"a\nb", " c ", ""}
	if asked != "nothing" {
		w.WriteHeader(code)
	}
	if asked == "long" {
		_, _ = w.Write([]byte(strings.Repeat("x", n)))
		return
	}
	if asked == "parts" {
		for range 3 {
			_, _ = w.Write([]byte(argument))
		}
		return
	}
	names := slices.Sorted(maps.Keys(r.Header))
	text := fmt.Sprintf("%s %s %s %d.%d %q %s %d %v %v %q %v\n", r.Method, r.URL, r.RequestURI, r.ProtoMajor, r.ProtoMinor, r.Host, r.RemoteAddr, r.ContentLength, r.Close, r.TransferEncoding, body, err)
	for _, name := range names {
		text += fmt.Sprintf("%q: %q\n", name, r.Header[name])
	}
	if _, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || r.Context().Value(http.ServerContextKey) == nil {
		text += fmt.Sprint("the context is another: ", r.Context())
	}
	_, _ = w.Write([]byte(text))
}

// newServer returns the server of a handler, with a log.
func newServer(h http.Handler, to io.Writer) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(to, "", 0),
	}
}

// begin has s serve a port until it is stopped, which ended waits for.
func begin(t *testing.T, s serverUnderTest) (p *port, ended func()) {
	t.Helper()
	p = newPort()
	served := make(chan error, 1)
	go func() { served <- s.Serve(p) }()
	return p, func() {
		t.Helper()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}
}

// pause is how long a client waits between two parts of a conversation. No timeout is a
// multiple of it.
const pause = 1100 * time.Millisecond

// A conversation is what a client sends, in parts with a pause between.
type conversation struct {
	parts []string
	half  bool // whether the client then closes its direction
	exact bool // whether the connection must end at the same time
}

// with holds the conversation with a server, until that closes the connection. It returns
// what the server says, when it has closed, and what it logs.
func (c *conversation) with(t *testing.T, of func(*http.Server) serverUnderTest) (reply string, took time.Duration, logged string, here int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		e := &echo{}
		s := of(newServer(e, &text))
		p, ended := begin(t, s)
		client := p.dial()
		start := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() {
			for i, part := range c.parts {
				if i > 0 {
					time.Sleep(pause)
				}
				_, _ = io.WriteString(client, part)
			}
			if c.half {
				_ = client.out.Close()
			}
		})
		all, _ := io.ReadAll(client)
		took = time.Since(start)
		_ = client.Close()
		writing.Wait()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		ended()
		reply, logged, here = string(all), text.String(), int(e.here.Load())
	})
	return reply, took, logged, here
}

func usual(h *http.Server) serverUnderTest { return h }
func ours(h *http.Server) serverUnderTest  { return New(h, path) }

// same holds a conversation with both servers.
func same(t *testing.T, c conversation) (here int) {
	t.Helper()
	want, wantTook, wantLog, _ := c.with(t, usual)
	got, took, logged, here := c.with(t, ours)
	if got != want {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Errorf("%.300q: from byte %d\n%.300q\nwant\n%.300q", c.parts, at, got[at:], want[at:])
	}
	late := 5 * time.Second // a header is judged when it is complete, or late
	if c.exact {
		late = 0
	}
	if wantTook >= 3*time.Minute { // an idle connection may stay a little longer
		late = 3 * time.Minute / spareTime
	}
	if took < wantTook || took > wantTook+late {
		t.Errorf("%.300q: the connection ends after %v, want %v", c.parts, took, wantTook)
	}
	if line, _, _ := strings.Cut(logged, "\n"); !strings.HasPrefix(wantLog, line) {
		t.Errorf("%.300q: logged\n%s\nwant\n%s", c.parts, logged, wantLog)
	}
	return here
}

// requests are some that are plain, and such of which proxies and servers are known to think
// differently, or that another part of net/http answers.
func requests() (usual, odd []string) {
	post := "POST " + path + " HTTP/1.1\r\n"
	for _, body := range []string{"", "x", "{}", "nothing", "code 400", "code 429", "code 503", "long 2047", "long 2048", "long 2049", "long 5000", "long 300000", "parts x", "late"} {
		usual = append(usual, plain(body))
	}
	usual = append(usual,
		post+"Host: a\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		post+"Host: a\r\nconnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
		post+"host: a:80\r\nUSER-AGENT: curl/8\r\naccept: */*\r\ncontent-length: 05\r\n\r\nhello",
		post+"Host: a\r\nX: 1\r\nx: 2\r\nY: z\r\nX: 3\r\nCookie: a=b; c=d\r\nContent-Length: 5\r\n\r\nhello",
		post+"Host: [::1]:80\r\n"+strings.Repeat("X: y\r\n", maxFields-2)+"Content-Length: 5\r\n\r\nhello",
		post+"Host: a\r\nContent-Length: 3000\r\n\r\n"+strings.Repeat("y", 3000),
	)
	for _, header := range []string{
		"Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: +5\r\n", "Content-Length: -5\r\n",
		"Content-Length: 5, 5\r\n", "Content-Length : 5\r\n", "Content-Length: 0x5\r\n", "Content-Length: 99999999999999999999\r\n", "Content-Length:5\r\n", "Content-Length:  5\r\n", "Content-Length: 5 \r\n",
		"Content-Length: \r\n", "Content-Length\r\n", ": 5\r\n", "Content-Length: 5\n", "Content-Length: 5\r", "Content-Length: 5\n\n", "Content-Length: 5\r\n\n",
		"", "X: y\r\n", "X:\r\nContent-Length: 5\r\n", "X: \r\nContent-Length: 5\r\n", "X\r\nContent-Length: 5\r\n", "X: a\tb\r\nContent-Length: 5\r\n", "X: \xe4\r\nContent-Length: 5\r\n",
		"X: y\x00\r\nContent-Length: 5\r\n", "X: y\x7f\r\nContent-Length: 5\r\n", "X\x00: y\r\nContent-Length: 5\r\n", "X(: y\r\nContent-Length: 5\r\n", "\u00e4: y\r\nContent-Length: 5\r\n", "X: y\rZ: w\r\nContent-Length: 5\r\n",
		" X: folded\r\nContent-Length: 5\r\n", "X: y\r\n folded\r\nContent-Length: 5\r\n", "X: y\r\n\tfolded\r\nContent-Length: 5\r\n", "X : y\r\nContent-Length: 5\r\n", "X\t: y\r\nContent-Length: 5\r\n",
		"Transfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: chunked, identity\r\n",
		"Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n", "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "transfer-encoding: chunked\r\n",
		"Host: b\r\nContent-Length: 5\r\n", "Expect: 100-continue\r\nContent-Length: 5\r\n", "Expect: 200-maybe\r\nContent-Length: 5\r\n", "Trailer: X\r\nContent-Length: 5\r\n",
		"Connection: close\r\nContent-Length: 5\r\n", "connection: Keep-Alive\r\nContent-Length: 5\r\n", "Connection: keep-alive, close\r\nContent-Length: 5\r\n", "Connection: keep-alive\r\nConnection: close\r\nContent-Length: 5\r\n",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n", "Upgrade: websocket\r\nContent-Length: 5\r\n",
		"Pragma: no-cache\r\nContent-Length: 5\r\n", "TE: trailers\r\nContent-Length: 5\r\n", "Proxy-Connection: close\r\nContent-Length: 5\r\n",
		strings.Repeat("X: y\r\n", maxFields) + "Content-Length: 5\r\n", strings.Repeat("X: y\r\n", 5000) + "Content-Length: 5\r\n", "X: " + strings.Repeat("y", 5000) + "\r\nContent-Length: 5\r\n",
		"X: " + strings.Repeat("y", bufferBytes-len(post)-40) + "\r\nContent-Length: 5\r\n", "X: " + strings.Repeat("y", 15<<10) + "\r\nContent-Length: 5\r\n",
	} {
		odd = append(odd, post+"Host: a\r\n"+header+"\r\nhello")
	}
	chunked := "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	odd = append(odd,
		post+chunked+"5\r\nhello\r\n0\r\n\r\n", post+chunked+"-1\r\n\r\n", post+chunked+"5\nhello\n0\n\n",
		post+"\r\n", post+"Content-Length: 5\r\n\r\nhello", post+"Host: \r\nContent-Length: 5\r\n\r\nhello", post+"Host: a b\r\nContent-Length: 5\r\n\r\nhello", post+"Host: a/b\r\nContent-Length: 5\r\n\r\nhello",
		post+"Host: a\r\nContent-Length: 4096\r\n\r\n"+strings.Repeat("y", 4096), post+"Host: a\r\nContent-Length: 70000\r\n\r\n"+strings.Repeat("y", 70000),
		"POST "+path+" HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST "+path+" HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
		"POST "+path+" HTTP/9.9\r\nHost: a\r\n\r\n", "POST  "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", "POST "+path+"  HTTP/1.1\r\nHost: a\r\n\r\n", "post "+path+" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"POST "+path+"?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST "+path+"/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST "+path+" HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello",
		"POST http://b"+path+" HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST /v1/other HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
		"GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\r\n\r\n", "\x16\x03\x01\x00", "P", "POST", "?",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
		"\r\n\r\n\r\n", "\r\n"+plain("x"), "\n\n\n\n\n"+plain("x"), "\r\n\r\n\r\n"+plain("x"), "\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
		plain("abort"), plain("panic"),
	)
	return usual, odd
}

// TestSameAnswers asks both servers the same, in several ways.
func TestSameAnswers(t *testing.T) {
	usual, odd := requests()
	for _, text := range usual {
		if here := same(t, conversation{parts: []string{text + text}}); here != 2 {
			t.Errorf("%.300q is left to net/http", text)
		}
	}
	for i, text := range append(usual, odd...) {
		same(t, conversation{parts: []string{text}})
		same(t, conversation{parts: []string{plain("x") + text + plain("y")}, half: true})
		same(t, conversation{parts: []string{plain("x"), text, plain("y")}})
		at := (len(text) * (i%7 + 1)) / 8
		same(t, conversation{parts: []string{plain("x") + text[:at], text[at:] + plain("y")}, half: true})
		same(t, conversation{parts: []string{text[:at]}, half: true})
		same(t, conversation{parts: []string{plain("x") + text[:at]}})
	}
}

// TestSlow sends requests slower than they may come.
func TestSlow(t *testing.T) {
	// A connection that is handed over begins anew, so it may take longer.
	for i, text := range []string{plain("hello"), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"} {
		for _, before := range []string{"", plain("x")} {
			same(t, conversation{exact: i == 0, parts: append([]string{before}, strings.Split(text, "")...)})
			at := max(strings.Index(text, "hello"), 2)
			same(t, conversation{exact: i == 0, parts: append([]string{before + text[:at]}, strings.Split(text[at:], "")...)})
			same(t, conversation{exact: i == 0, parts: append([]string{before + text[:at]}, strings.Split(text[at:]+strings.Repeat(" ", 20), "")...)})
		}
	}
	same(t, conversation{exact: true})
	same(t, conversation{exact: true, half: true})
	for _, n := range []int{100, 3000} { // a body without its end: 9 seconds are right, and 13 are not
		text := strings.Replace(plain(strings.Repeat("y", n)), "yyyyyyyyyyyyyyyy", "y", 1)
		for _, parts := range []int{1, 9, 12} {
			same(t, conversation{exact: true, parts: append([]string{text}, slices.Repeat([]string{"y"}, parts)...)})
		}
	}
}

// TestOneByOne sends each request in parts of one byte, at once.
func TestOneByOne(t *testing.T) {
	usual, odd := requests()
	for _, text := range append(usual, odd...) {
		if len(text) > 300 {
			continue
		}
		same(t, conversation{parts: []string{plain("x") + text}})
		got, _, _, _ := (&conversation{parts: []string{plain("x") + text}}).with(t, func(h *http.Server) serverUnderTest { return oneByOne{New(h, path)} })
		if want, _, _, _ := (&conversation{parts: []string{plain("x") + text}}).with(t, ours); got != want {
			t.Errorf("%q: %.1000q, want %.1000q", text, got, want)
		}
	}
}

// oneByOne is a Server whose connections give a byte at a time.
type oneByOne struct{ *Server }

func (s oneByOne) Serve(l net.Listener) error { return s.Server.Serve(oneByOnePort{l}) }

type oneByOnePort struct{ net.Listener }

func (l oneByOnePort) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return oneByOneConn{c}, err
}

type oneByOneConn struct{ net.Conn }

func (c oneByOneConn) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), 1)]) }

// TestShutdown stops a server with connections in each state.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echo{wait: make(chan struct{})}
		s := New(newServer(e, io.Discard), path)
		p, ended := begin(t, s)
		fresh, idle, waiting, part, foreign := p.dial(), p.dial(), p.dial(), p.dial(), p.dial()
		answered := make([]byte, 4096)
		for c, text := range map[*pipe]string{
			idle: plain("x"), waiting: plain("wait"), part: plain("xyz")[:len(plain("xyz"))-2], foreign: "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
		} {
			_, _ = io.WriteString(c, text)
		}
		for _, c := range []*pipe{idle, foreign} {
			if n, err := c.Read(answered); err != nil || !strings.HasPrefix(string(answered[:n]), "HTTP/1.1 200 OK\r\n") {
				t.Errorf("%q, %v", answered[:n], err)
			}
		}
		synctest.Wait()
		stopped := make(chan error, 1)
		start := time.Now()
		go func() { stopped <- s.Shutdown(t.Context()) }()
		for name, c := range map[string]*pipe{"new": fresh, "idle": idle, "idle at net/http": foreign} {
			if all, err := io.ReadAll(c); len(all) > 0 || err != nil || time.Since(start) > time.Second {
				t.Errorf("a connection that is %s ends with %q, %v after %v", name, all, err, time.Since(start))
			}
		}
		_, _ = io.WriteString(part, "yz")
		close(e.wait)
		for _, c := range []*pipe{part, waiting} {
			all, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200 OK\r\n") || strings.Count(string(all), "Connection: close\r\n") != 1 {
				t.Errorf("a request under way: %q, %v", all, err)
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		ended()
	})
}

// TestClose ends a request that takes longer than Shutdown may.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echo{wait: make(chan struct{})}
		s := New(newServer(e, io.Discard), path)
		p, ended := begin(t, s)
		c := p.dial()
		_, _ = io.WriteString(c, plain("wait"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown returns %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if all, _ := io.ReadAll(c); len(all) > 0 {
			t.Errorf("%q after Close", all)
		}
		close(e.wait)
		ended()
		s.serving.Wait()
	})
}

// TestNotRead has clients that do not read their answers. They are ended in time, and once
// the answers are read, others come.
func TestNotRead(t *testing.T) {
	for _, body := range []string{"x", "long 300000"} {
		synctest.Test(t, func(t *testing.T) {
			s := New(newServer(new(echo), io.Discard), path)
			p, ended := begin(t, s)
			c := p.dial()
			for range 3 {
				_, _ = io.WriteString(c, plain("x"))
				time.Sleep(29 * time.Second)
				_, _ = c.Read(make([]byte, 4096))
			}
			_, _ = io.WriteString(c, plain(body))
			start := time.Now()
			s.serving.Wait()
			if took := time.Since(start); took < s.WriteTimeout || took > s.WriteTimeout*5/4 {
				t.Errorf("%s: the connection ends after %v", body, took)
			}
			_ = s.Close()
			ended()
		})
	}
}

// TestAcceptFails has the listener fail.
func TestAcceptFails(t *testing.T) {
	p := newPort()
	_ = p.Close()
	if err := New(newServer(new(echo), io.Discard), path).Serve(p); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returns %v", err)
	}
}
