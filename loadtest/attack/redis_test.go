package attack

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// redisAttacks use the port for the protocol of Redis as no client should.
func redisAttacks() []attack {
	return []attack{
		{name: "Redis: lengths", do: redisSends(
			"*1\r\n$9223372036854775807\r\n", "*9223372036854775807\r\n", "*1\r\n$-9223372036854775808\r\n", "*-1\r\n", "*320\r\n$16384\r\n",
			"*"+strings.Repeat("0", 100_000), "*1\r\n$"+strings.Repeat("9", 100_000), "$5\r\nhello\r\n", "*1\r\n*1\r\n*1\r\n",
		)},
		{name: "Redis: lines without end", do: redisSends(strings.Repeat("x", 1<<20), strings.Repeat("a ", 1<<19)+"\r\n", strings.Repeat("\x00", 1<<20))},
		{name: "Redis: pipelines", do: redisSends(
			strings.Repeat("\r\n", 1<<20), strings.Repeat("*0\r\n", 1<<18), strings.Repeat("HELLO 3\r\nRL.ALLOW n i 1/s"+strings.Repeat(" LIMIT 2/s", 30)+"\r\n", 2000),
			strings.Repeat("RL.ALLOW n i 5/x"+strings.Repeat(" FOO", 100)+"\r\n", 2000), strings.Repeat("THROTTLE a 1000000000 1000000000 1\r\n", 20_000),
		)},
		{name: "Redis: conversations", do: redisSends(
			strings.Repeat("HELLO 3 SETNAME a\r\nHELLO 2\r\n", 30_000), strings.Repeat("PING "+strings.Repeat("x", 10_000)+"\r\n", 100), strings.Repeat("RESET\r\nSELECT 0\r\n", 40_000),
			strings.Repeat("*1\r\n$5\r\nMULTI\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n", 10_000), strings.Repeat("COMMAND INFO"+strings.Repeat(" RL.ALLOW", 300)+"\r\n", 300),
			strings.Repeat("RL.RESERVE n i 1000000/h COST 1\r\n", 20_000), strings.Repeat("RL.CANCEL AQAA\r\n", 20_000),
		)},
		{name: "Redis: replies not read", do: redisUnread},
		{name: "Redis: slow commands", do: func(ctx context.Context, t *testing.T, d *daemon) {
			beginnings := []string{"*320\r\n", "*1\r\n$16000\r\n", "PING ", "*4\r\n$8\r\nRL.ALLOW\r\n" + strings.Repeat("$1\r\na\r\n", 2)}
			hold(ctx, t, crowd{size(300, 5000), "127.0.0.1", []string{d.RESP}}, func(i int) string { return beginnings[i%len(beginnings)] })
		}},
		{name: "Redis: new keys alone", do: redisKeys},
	}
}

// redisSends has several connections send texts, again and again, and read what they get.
func redisSends(texts ...string) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		together(ctx, size(8, 32), size(2, 100)*len(texts), func(i int) {
			c, err := redisConn(ctx, d)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			done := make(chan struct{})
			go func() { defer close(done); _, _ = io.Copy(io.Discard, c) }()
			_, _ = io.WriteString(c, texts[i%len(texts)])
			_ = c.(*net.TCPConn).CloseWrite()
			<-done
		})
	}
}

func redisConn(ctx context.Context, d *daemon) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", d.RESP)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// redisUnread asks for long replies on many connections, and reads none.
func redisUnread(ctx context.Context, t *testing.T, d *daemon) {
	command := strings.Repeat("COMMAND\r\n", 2000)
	var open []net.Conn
	for range size(100, 2000) {
		c, err := redisConn(ctx, d)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		open = append(open, c)
	}
	together(ctx, 16, len(open), func(i int) {
		_ = open[i].SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			if _, err := io.WriteString(open[i], command); err != nil {
				return // it takes no more
			}
		}
	})
	pause(ctx, time.Duration(size(1, 10))*time.Second)
}

// redisReplies sends commands one after the other, without waiting for replies, and returns
// these.
func redisReplies(ctx context.Context, d *daemon, commands string) (string, error) {
	c, err := redisConn(ctx, d)
	if err != nil {
		return "", err
	}
	defer c.Close()
	go func() { _, _ = io.WriteString(c, commands+"QUIT\r\n") }()
	replies, err := io.ReadAll(c)
	return string(replies), err
}

// redisKeys asks for identifiers that nobody had before, as fast as it can.
func redisKeys(ctx context.Context, t *testing.T, d *daemon) {
	var next atomic.Int64
	together(ctx, size(4, 16), size(40, 5000), func(int) {
		var text strings.Builder
		for range 1000 {
			fmt.Fprintf(&text, "RL.ALLOW flood %d 5/h\r\nCL.THROTTLE %[1]d 15 30 60\r\n", next.Add(1))
		}
		reply, err := redisReplies(ctx, d, text.String())
		if n := strings.Count(reply, "*5\r\n"); err != nil || n != 2000 {
			t.Errorf("%d of 2000 replies, %v", n, err)
		}
	})
}
