package attack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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
			together(ctx, size(150, 1500), size(300, 6000), func(int) {
				code, text, err := ask(ctx, d, http.MethodPost, "/v1/should-allow", manyRequests)
				if err != nil || code != http.StatusOK && code != http.StatusServiceUnavailable {
					t.Errorf("the answer is %d %.100s, %v, want it given or refused", code, text, err)
				}
			})
		}},
		{name: "HTTP: replies not read", do: func(ctx context.Context, t *testing.T, d *daemon) {
			notRead(ctx, t, crowd{size(40, 2000), "127.0.0.1", []string{d.HTTP}}, fmt.Sprintf("POST /v1/should-allow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(manyRequests), manyRequests))
		}},
		{name: "scrapes not read", do: func(ctx context.Context, t *testing.T, d *daemon) {
			scrapes(ctx, t, d)
			notRead(ctx, t, crowd{size(100, 2000), "127.0.0.1", []string{d.HTTP, d.Admin}}, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		}},
	}
}

// notRead asks for something again and again on many connections, and reads no answer.
func notRead(ctx context.Context, t *testing.T, of crowd, request string) {
	var mu sync.Mutex // protects open
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	text := bytes.Repeat([]byte(request), size(8, 20))
	together(ctx, 8, of.connections, func(i int) {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", of.ports[i%len(of.ports)])
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		open = append(open, c)
		mu.Unlock()
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_ = c.SetDeadline(time.Now().Add(longest))
		go func() { _, _ = c.Write(text) }()
		_, _ = io.ReadFull(c, make([]byte, 100)) // the first answer has begun
	})
	pause(ctx, time.Duration(size(1, 15))*time.Second)
}
