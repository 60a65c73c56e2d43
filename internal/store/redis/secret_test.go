package redis

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// expiring returns the address of a way to a server on which a connection is cut when life
// has passed since it last said who it is, in whatever it is doing: as managed servers do
// whose tokens expire. cuts counts those of connections in use.
func expiring(t *testing.T, server *redistest.Server, life time.Duration) (addr string, cuts *atomic.Int64) {
	t.Helper()
	cuts = new(atomic.Int64)
	return storetest.Serve(t, func(client net.Conn) {
		upstream, err := net.Dial("tcp", server.Addr)
		if err != nil {
			return
		}
		defer upstream.Close()
		var used atomic.Int64
		cut := time.AfterFunc(life, func() {
			if time.Now().UnixNano()-used.Load() < int64(life/4) {
				cuts.Add(1)
			}
			_, _ = client.Close(), upstream.Close()
		})
		defer cut.Stop()
		go func() {
			pass(client, upstream, func([]byte) {})
			_ = client.Close()
		}()
		pass(upstream, client, func(said []byte) {
			used.Store(time.Now().UnixNano())
			if bytes.Contains(bytes.ToLower(said), []byte("\r\nauth\r\n")) {
				cut.Reset(life)
			}
		})
	}), cuts
}

// pass passes on what comes, until it ends.
func pass(to, from net.Conn, see func([]byte)) {
	some := make([]byte, 64<<10)
	for {
		n, err := from.Read(some)
		see(some[:n])
		if _, failed := to.Write(some[:n]); err != nil || failed != nil {
			return
		}
	}
}

// do runs commands on a server.
func do(t *testing.T, server *redistest.Server, commands ...string) {
	t.Helper()
	client := server.Client(t)
	for _, command := range commands {
		var args []any
		for word := range strings.FieldsSeq(command) {
			args = append(args, word)
		}
		if err := client.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
}

// writeSecret writes a file as careless writers do: it is empty for a moment.
func writeSecret(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRotatingToken has tokens that live for 3 seconds, and others who write a new one to the
// file each second. No decision is lost.
func TestRotatingToken(t *testing.T) {
	t.Parallel() // it mostly waits
	server := redistest.Start(t)
	addr, cuts := expiring(t, server, 3*time.Second)
	file := filepath.Join(t.TempDir(), "token")
	rotate := func(i int) {
		t.Helper()
		do(t, server, fmt.Sprintf("ACL SETUSER app on >token-%d ~* +@all", i))
		writeSecret(t, file, fmt.Sprintf("app:token-%d", i))
		if i > 1 {
			do(t, server, fmt.Sprintf("ACL SETUSER app <token-%d", i-2))
		}
	}
	rotate(0)
	s := openWith(t, Options{URLs: []string{"redis://" + addr}, AuthFile: file, Timeout: time.Second})
	load := startLoad(t, s, 8)
	load.await(t, "decisions are made", func() error { return load.allEvery(10) })
	for i := 1; i <= 5; i++ {
		time.Sleep(time.Second)
		rotate(i)
	}
	load.stop()
	if load.failed.Load() > 0 || cuts.Load() > 0 {
		t.Errorf("%d of %d decisions are lost, such as %v; %d connections in use were cut because their token expired", load.failed.Load(), load.decisions.Load(), load.errs, cuts.Load())
	}
	t.Logf("%d decisions", load.decisions.Load())
}

// TestPasswordChangesUnderLoad changes the password of the server and the one in the file,
// in either order. Open connections go on, whichever comes first.
func TestPasswordChangesUnderLoad(t *testing.T) {
	t.Parallel() // it mostly waits
	server := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "password")
	writeSecret(t, file, "0")
	admin := server.Client(t)
	if err := admin.ConfigSet(t.Context(), "requirepass", "0").Err(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := openWith(t, Options{URLs: []string{server.URL}, PasswordFile: file, Timeout: time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	load := startLoad(t, s, 8)
	load.await(t, "decisions are made", func() error { return load.allEvery(10) })
	for i, change := range [][2]func(string){
		{func(p string) { writeSecret(t, file, p) }, func(p string) { admin.ConfigSet(t.Context(), "requirepass", p) }},
		{func(p string) { admin.ConfigSet(t.Context(), "requirepass", p) }, func(p string) { writeSecret(t, file, p) }},
	} {
		for _, one := range change {
			one(fmt.Sprint(i + 1))
			time.Sleep(1200 * time.Millisecond)
		}
	}
	load.stop()
	if load.failed.Load() > 0 {
		t.Errorf("%d of %d decisions are lost, such as %v", load.failed.Load(), load.decisions.Load(), load.errs)
	}
	_ = s.Close()
	if text := log.String(); !strings.Contains(text, "WRONGPASS") || !strings.Contains(text, "the credentials have changed") {
		t.Errorf("the log says:\n%s", text)
	}
}

// TestServerClosesIdleConnections has the server close all connections, with TLS and without.
// No decision meets one of them.
func TestServerClosesIdleConnections(t *testing.T) {
	plain, secure := redistest.Start(t), redistest.StartTLS(t)
	for name, o := range map[*redistest.Server]Options{
		plain:         {URLs: []string{plain.URL}},
		secure.Server: {URLs: []string{secure.URL}, CAFile: secure.CAFile, CertFile: secure.CertFile, KeyFile: secure.KeyFile},
	} {
		admin, s := name.Client(t), openWith(t, o)
		r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/h"}), Cost: 1}
		for range 20 {
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Errorf("%s: %v", o.URLs, res.Err)
			}
			if err := admin.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
				t.Fatal(err)
			}
		}
		before := s.client.PoolStats().StaleConns
		for range 100 {
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Errorf("%s: %v", o.URLs, res.Err)
			}
		}
		if stale := s.client.PoolStats().StaleConns - before; stale > 20 { // those that the server has closed are among them
			t.Errorf("%s: %d connections that are well are given up", o.URLs, stale)
		}
	}
}

// TestAuthFile has the user in the file too.
func TestAuthFile(t *testing.T) {
	server := redistest.Start(t)
	do(t, server, "ACL SETUSER one on >a:b ~* +@all", "ACL SETUSER two on >c ~* +@all", "CONFIG SET requirepass d")
	file := filepath.Join(t.TempDir(), "auth")
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/h"}), Cost: 1}
	for _, text := range []string{"one:a:b", "two:c\r", "d"} {
		writeSecret(t, file, text)
		if res := decide(t.Context(), openWith(t, Options{URLs: []string{server.URL}, AuthFile: file}), r); res.Err != nil {
			t.Errorf("%q: %v", text, res.Err)
		}
	}
	for want, o := range map[string]Options{
		"there is a user or a password too": {AuthFile: file, User: "one", Password: "a:b"},
		"there is a password file too":      {AuthFile: file, PasswordFile: file},
		"user or a password too":            {AuthFile: file, URLs: []string{"redis://:secret@localhost"}},
		"no such file":                      {AuthFile: file + ".not"},
		"must have user:password":           {AuthFile: os.DevNull},
	} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want %s", o, err, want)
		}
	}
}
