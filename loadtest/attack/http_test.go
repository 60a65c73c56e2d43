package attack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// httpAttacks use the HTTP and admin ports as no client should.
func httpAttacks() []attack {
	var body strings.Builder
	for i := range 900 {
		fmt.Fprintf(&body, `,{"namespace":"greedy","identifier":"%d","limits":[{"rate":"1/h"}]}`, i)
	}
	manyRequests := `{"requests":[` + body.String()[1:] + `]}`
	return []attack{
		{name: "HTTP: batches at once", do: func(ctx context.Context, t *testing.T, d *daemon) {
			together(ctx, size(150, 1500), size(300, 4000), func(int) {
				code, text, err := ask(ctx, d, http.MethodPost, "/v1/should-allow", manyRequests)
				if err == nil && code != http.StatusOK && code != http.StatusServiceUnavailable {
					t.Errorf("the answer is %d %.100s, %v, want it given or refused", code, text, err)
				}
			})
		}},
		{name: "HTTP: replies not read", do: func(ctx context.Context, _ *testing.T, d *daemon) {
			notRead(ctx, crowd{size(30, 500), "127.0.0.1", []string{d.HTTP}}, fmt.Sprintf("POST /v1/should-allow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(manyRequests), manyRequests))
		}},
		{name: "HTTP: odd requests", do: oddRequests},
		{name: "scrapes not read", do: func(ctx context.Context, t *testing.T, d *daemon) {
			scrapes(ctx, t, d)
			notRead(ctx, crowd{size(100, 2000), "127.0.0.1", []string{d.HTTP, d.Admin}}, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		}},
	}
}

// notRead asks for something again and again on many connections, and reads no answer.
func notRead(ctx context.Context, of crowd, request string) {
	var mu sync.Mutex // protects open
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	text := bytes.Repeat([]byte(request), size(6, 20))
	together(ctx, 8, of.connections, func(i int) {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", of.ports[i%len(of.ports)])
		if err != nil {
			return // this is the daemon's right
		}
		mu.Lock()
		open = append(open, c)
		mu.Unlock()
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_ = c.SetDeadline(time.Now().Add(longest))
		go func() { _, _ = c.Write(text) }()
		_, _ = io.ReadFull(c, make([]byte, 100)) // the first answer has begun
	})
	pause(ctx, time.Duration(size(1, 8))*time.Second)
}

// oddRequests sends requests of which proxies and servers are known to think differently. None
// of them may be answered as if it asked for a decision, and the second one on a connection,
// which asks for one more, must not be answered after one whose end is not clear.
func oddRequests(ctx context.Context, t *testing.T, d *daemon) {
	const body = `{"namespace":"innocent","identifier":"alice","policy":"default"}`
	second := fmt.Sprintf("POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	post := "POST /v1/should-allow HTTP/1.1\r\n"
	unclear := []string{
		post + "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		post + "Host: a\r\nContent-Length: +5\r\n\r\nhello",
		post + "Host: a\r\nContent-Length: 5, 5\r\n\r\nhello",
		post + "Host: a\r\nContent-Length : 5\r\n\r\nhello",
		post + "Host: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		post + "Host: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
		post + "Host: a b\r\nContent-Length: 0\r\n\r\n",
		post + "Content-Length: 0\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("x", 100_000) + "\r\nhello\r\n0\r\n\r\n",
		post + "Host: a\r\nExpect: 200-maybe\r\nContent-Length: 5\r\n\r\nhello",
		post + "Host: a\r\n X: folded\r\nContent-Length: 0\r\n\r\n",
		post + "Host: a\r\nX\x00: y\r\nContent-Length: 0\r\n\r\n",
		post + "Host: a\r\n" + strings.Repeat("X: y\r\n", 30_000) + "Content-Length: 0\r\n\r\n",
		"POST /v1/should-allow HTTP/9.9\r\nHost: a\r\n\r\n", "POST  /v1/should-allow HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\r\n\r\n", "\r\n\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	}
	clear := []string{
		post + "Host: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 1\r\n\r\n",
		post + "Host: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
		post + "Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "TRACE /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
		post + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 70_000) + "0\r\n\r\n",
	}
	all := append(slices.Clone(unclear), clear...)
	together(ctx, size(8, 32), size(1, 50)*len(all)*2, func(i int) {
		text, port := all[i/2%len(all)], []string{d.HTTP, d.Admin}[i%2]
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", port)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if slices.Contains(unclear, text) {
			text += second
		}
		go func() {
			_, _ = io.WriteString(c, text)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		reply, _ := io.ReadAll(c)
		if bytes.Contains(reply, []byte(`"allowed"`)) {
			t.Errorf("%.100q is answered with a decision: %.300q", text, reply)
		}
	})
}
