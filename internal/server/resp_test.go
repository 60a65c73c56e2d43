package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

// startRESP is start for a daemon that serves the protocol of Redis too.
func startRESP(t testing.TB, o Options) *daemon {
	t.Helper()
	if o.RESPAddr == "" {
		o.RESPAddr = "127.0.0.1:0"
	}
	return start(t, o)
}

// redis returns a client of d.
func (d *daemon) redis(t testing.TB, o redis.Options) *redis.Client {
	t.Helper()
	o.Addr = strings.Replace(d.RESPAddr(), "[::]", "127.0.0.1", 1)
	o.MaxRetries = -1
	client := redis.NewClient(&o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// says returns what a client gets for a command: the reply, or the text of the error.
func says(t *testing.T, client *redis.Client, command ...any) any {
	t.Helper()
	reply, err := client.Do(t.Context(), command...).Result()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return err.Error()
	}
	return reply
}

func words(command string) (all []any) {
	for w := range strings.FieldsSeq(command) {
		all = append(all, w)
	}
	return all
}

func list(all ...any) []any {
	for i := range all {
		if n, ok := all[i].(int); ok {
			all[i] = int64(n)
		}
	}
	return all
}

const aMinute = 60_000_000 // microseconds; the clock of start stands at midnight

func TestRESPAnswers(t *testing.T) {
	c := policyConfig(t, `
checkout:
  exempt: [vip]
  policies:
    gold: {limits: [{name: a, rate: 5/min, strategy: token_bucket}, {name: b, rate: 9/h}]}
    shy: {shadow: true, limits: [{rate: 1/h}]}
own: {policies_only: true, policies: {gold: {limits: [{rate: 5/min}]}}}
`)
	d := startRESP(t, Options{Config: c})
	client := d.redis(t, redis.Options{Protocol: 2})
	for _, tt := range []struct {
		command string
		want    any
	}{
		{"RL.ALLOW checkout user:1 2/min", list(1, 2, 1, 0, aMinute)},
		{"rl.allow checkout user:1 2/min", list(1, 2, 0, 0, aMinute)},
		{"RL.ALLOW checkout user:1 2/min", list(0, 2, 0, aMinute, aMinute)},
		{"RL.ALLOW checkout user:1 2/min COST 3", list(0, 2, 0, -1, aMinute)},
		{"RL.ALLOW checkout user:1 2/min COST 0", list(1, 2, 0, 0, aMinute)},
		{"RL.ALLOW checkout user:1 2/min MODE charge", list(0, 2, 0, aMinute, aMinute)},
		{"RL.ALLOW checkout user:1 2/min MODE refund COST 2", list(1, 2, 1, 0, aMinute)},
		{"RL.ALLOW checkout user:2 10/min STRATEGY gcra BURST 3 NAME x DRY", list(1, 3, 3, 0, 0)},
		{"RL.ALLOW checkout user:2 10/min STRATEGY gcra BURST 3 NAME x", list(1, 3, 2, 0, 6_000_000)},
		{"RL.ALLOW checkout user:3 10/min LIMIT 2/h LIMIT 5/s COST 2", list(1, 2, 0, 0, 60*aMinute)},
		{"RL.ALLOW checkout user:3 10/min LIMIT 2/h LIMIT 5/s", list(0, 2, 0, 60*aMinute, 60*aMinute)},
		{"RL.ALLOW checkout user:4 2/day TIME_ZONE Europe/Berlin", list(1, 2, 1, 0, 23*60*aMinute)},
		{"RL.ALLOW checkout user:5 unlimited", list(1, -1, -1, 0, -1)},
		{"RL.ALLOW checkout vip 0/h", list(1, -1, -1, 0, -1)},
		{"RL.ALLOW checkout user:6 0/h", list(0, 0, 0, -1, 0)},
		{"RL.ALLOW checkout user:9 POLICY gold", list(1, 5, 4, 0, 12_000_000)},
		{"RL.POLICY checkout gold user:7 COST 5", list(1, 5, 0, 0, aMinute)},
		{"RL.POLICY checkout gold user:7 COST 1 DRY", list(0, 5, 0, 12_000_000, aMinute)},
		{"RL.POLICY checkout shy user:7 COST 2", list(1, -1, -1, 0, -1)},
		{"RL.RESET checkout user:7 POLICY gold", "OK"},
		{"RL.POLICY checkout gold user:7", list(1, 5, 4, 0, 12_000_000)},
		{"RL.RESET checkout user:1 2/min", "OK"},
		{"RL.ALLOW checkout user:1 2/min", list(1, 2, 1, 0, aMinute)},
		{"RL.RESERVE checkout user:8 2/min COST 3", list(0, 2, 2, -1, 0, nil)},

		{"RL.ALLOW checkout user:1", "ERR wrong number of arguments for RL.ALLOW; write RL.ALLOW namespace identifier rate"},
		{"RL.ALLOW checkout user:1 2/fortnight", `ERR invalid request: rate: rate "2/fortnight": unknown unit "fortnight"; use ms, s`},
		{"RL.ALLOW checkout user:1 2/min COST", "ERR invalid request: COST: COST has no value; write one, as in COST 5"},
		{"RL.ALLOW checkout user:1 2/min COST -1", `ERR invalid request: COST: "-1" is not a whole number of 0 or more; write one such as 5`},
		{"RL.ALLOW checkout user:1 2/min MODE steal", `ERR invalid request: MODE: unknown mode "steal"; use take, charge, refund`},
		{"RL.ALLOW checkout user:1 2/min BURTS 1", `ERR invalid request: option: unknown option "BURTS"; use COST, MODE`},
		{"RL.ALLOW checkout user:1 2/min LIMIT 5/s STRATEGY x", `ERR invalid request: STRATEGY of limit 2: unknown strategy "x"; use fixed_window`},
		{"RL.ALLOW checkout user:1 2/min LIMIT 5/s BURST 7", `ERR invalid request: BURST of limit 2: burst 7: fixed_window has none; leave it out`},
		{"RL.ALLOW checkout user:1 2/min LIMIT", "ERR invalid request: rate: LIMIT has no rate; write one, as in LIMIT 100/min"},
		{"RL.ALLOW checkout user:1 2/min LIMIT 2/m", "ERR invalid request: limit 2: the same limit as another of this request"},
		{"RL.ALLOW checkout user:1 2/min CONSUMED_AT 5", "ERR invalid request: CONSUMED_AT: only a refund has one"},
		{"RL.ALLOW checkout user:1 1/s" + strings.Repeat(" LIMIT 2/s NAME x", 16), "ERR invalid request: rate: more than 16 limits; give at most 16"},
		{"RL.ALLOW checkout user:1 POLICY", `ERR invalid request: rate: rate "POLICY"`},
		{"RL.POLICY checkout gold user:1 BURST 4", "ERR invalid request: BURST: a policy has its own; leave BURST out"},
		{"RL.POLICY checkout silver user:1", `NOTFOUND unknown policy "silver" in namespace "checkout": the server's configuration has gold, shy`},
		{"RL.ALLOW own user:1 2/min", "ERR invalid request: rate: this server decides by policies of its own alone"},
		{"RL.RESERVE checkout user:1 2/min MODE refund", "ERR invalid request: MODE: refund reserves nothing"},
		{"RL.COMMIT x 5", `ERR invalid request: reservation: "x" is not one; send what RL.RESERVE replied`},
		{"RL.COMMIT AAAA 5", "ERR invalid request: reservation: "},
		{"RL.COMMIT AAAA x", `ERR invalid request: actual: "x" is not a whole number`},
		{"RL.CANCEL AAAA", "ERR invalid request: reservation: "},
		{"RL.FORGET checkout", `ERR unknown command "RL.FORGET"; use RL.ALLOW`},
	} {
		got := says(t, client, words(tt.command)...)
		if want, isText := tt.want.(string); isText && got != "OK" {
			if text, _ := got.(string); !strings.HasPrefix(text, want) {
				t.Errorf("%s: %v, want %s", tt.command, got, want)
			}
		} else if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.command, got, tt.want)
		}
	}
	// It is the counter of the other fronts.
	r, err := d.client.ShouldAllow(t.Context(), ask("user:1", limit("2/min")))
	if err != nil || r.GetStatuses()[0].GetRemaining() != 0 {
		t.Errorf("over gRPC: %v, %v; want nothing remaining", r, err)
	}
	if n := d.metric(t, "ratelimitd_resp_commands_total", "command=RL.RESET", "result=ok"); n != 2 {
		t.Errorf("%v resets are counted, want 2", n)
	}
	if n := d.metric(t, "ratelimitd_resp_commands_total", "command=unknown", "result=error"); n < 1 {
		t.Errorf("%v unknown commands are counted", n)
	}
}

// TestRESP3 looks at the replies that are maps.
func TestRESP3(t *testing.T) {
	d := startRESP(t, Options{})
	client := d.redis(t, redis.Options{Protocol: 3, ClientName: "a-test"})
	const midnight = 1_767_225_600_000_000
	want := map[any]any{
		"allowed": false, "reason": "OVER_LIMIT", "retry_after": int64(-1), "delay": int64(0), "decided_at": int64(midnight),
		"limits": []any{
			map[any]any{"name": "", "allowed": true, "limit": int64(10), "remaining": int64(10), "retry_after": int64(0), "reset_after": int64(0)},
			map[any]any{"name": "b", "allowed": false, "limit": int64(3), "remaining": int64(3), "retry_after": int64(-1), "reset_after": int64(0)},
		},
	}
	if got := says(t, client, words("RL.ALLOW checkout alice 10/min LIMIT 3/h NAME b COST 4")...); !reflect.DeepEqual(got, want) {
		t.Errorf("%v,\nwant %v", got, want)
	}
	own, err := memory.New(memory.Options{}) // reservations live by the clock of the process
	if err != nil {
		t.Fatal(err)
	}
	d = startRESP(t, Options{Store: own, StoreName: "memory"})
	client = d.redis(t, redis.Options{Protocol: 3})
	reserved, _ := says(t, client, words("RL.RESERVE checkout alice 10/min COST 4")...).(map[any]any)
	id, _ := reserved["reservation"].(string)
	if id == "" || reserved["allowed"] != true {
		t.Fatalf("%v, want a reservation", reserved)
	}
	for _, repeated := range []bool{false, true} {
		got, _ := says(t, client, "RL.COMMIT", id, 1).(map[any]any)
		if got["repeated"] != repeated || got["limits"].([]any)[0].(map[any]any)["remaining"] != int64(9) {
			t.Errorf("a commit: %v, want repeated %v and 9 remaining", got, repeated)
		}
	}
	again := says(t, d.redis(t, redis.Options{Protocol: 2}), words("RL.RESERVE checkout alice 10/min COST 4")...).([]any)
	if got := says(t, client, "RL.CANCEL", again[5]); got != "OK" {
		t.Errorf("a cancel: %v", got)
	}
	if got := says(t, client, words("RL.RESERVE checkout alice 10/min COST 11")...).(map[any]any); got["reservation"] != nil || got["allowed"] != false {
		t.Errorf("a reservation that is denied: %v", got)
	}
	if got := says(t, client, words("RL.ALLOW checkout alice 10/min MODE refund COST 1 CONSUMED_AT 1767225600000000")...).(map[any]any); got["reason"] != "WITHIN_LIMIT" {
		t.Errorf("a refund: %v", got)
	}
	if got, want := says(t, client, words("CL.THROTTLE alice 15 30 60")...), list(0, 16, 15, -1, 2); !reflect.DeepEqual(got, want) {
		t.Errorf("CL.THROTTLE: %v, want %v", got, want)
	}
}

// TestRESPPipeline has many commands sent at once: the replies come in their order, and
// each sees what those before it have consumed.
func TestRESPPipeline(t *testing.T) {
	d := startRESP(t, Options{})
	client := d.redis(t, redis.Options{Protocol: 2})
	pipe := client.Pipeline()
	const many = 1000
	for i := range many {
		pipe.Do(t.Context(), "RL.ALLOW", "checkout", "alice", fmt.Sprintf("%d/h", many))
		if i%100 == 50 {
			pipe.Echo(t.Context(), i)
			pipe.Do(t.Context(), "RL.ALLOW", "checkout", "alice", "x/h")
		}
	}
	replies, _ := pipe.Exec(t.Context())
	left := int64(many)
	for i, reply := range replies {
		cmd, _ := reply.(*redis.Cmd)
		switch {
		case cmd == nil: // the echo
			if got := reply.(*redis.StringCmd).Val(); got != fmt.Sprint(many-left-1) {
				t.Fatalf("reply %d: the echo of %s after %d", i, got, many-left)
			}
		case cmd.Err() != nil:
			if !strings.HasPrefix(cmd.Err().Error(), "ERR invalid request: rate:") {
				t.Fatal(cmd.Err())
			}
		default:
			left--
			if got := cmd.Val().([]any)[2]; got != left {
				t.Fatalf("reply %d: %v remain, want %d", i, got, left)
			}
		}
	}
	if left != 0 {
		t.Errorf("%d of %d are answered", many-left, many)
	}
	// On one connection there are at most some commands in a batch of the core.
	if n := d.metric(t, "ratelimitd_resp_commands_total", "command=RL.ALLOW", "result=ok"); n != many {
		t.Errorf("%v commands are counted, want %d", n, many)
	}
}

// TestRedisTools runs the programs that come with Redis.
func TestRedisTools(t *testing.T) {
	d := startRESP(t, Options{Config: &Config{Clients: known(t)}})
	_, port, _ := net.SplitHostPort(d.RESPAddr())
	run := func(name string, args ...string) string {
		text, err := exec.CommandContext(t.Context(), name, append([]string{"-p", port, "-a", tokens["shop"]}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %q: %v: %s", name, args, err, text)
		}
		return string(text)
	}
	if got := run("redis-cli", "--no-auth-warning", "RL.ALLOW", "checkout", "user:42", "100/min"); got != "1\n100\n99\n0\n60000000\n" {
		t.Errorf("redis-cli: %q", got)
	}
	if got := run("redis-cli", "--no-auth-warning", "-3", "RL.ALLOW", "checkout", "user:42", "100/min"); !strings.Contains(got, "remaining 98") {
		t.Errorf("redis-cli -3: %q", got)
	}
	if got := run("redis-cli", "--no-auth-warning", "INFO"); !strings.Contains(got, "server_name:ratelimitd") {
		t.Errorf("redis-cli INFO: %q", got)
	}
	if got := run("redis-benchmark", "-n", "2000", "-P", "16", "-c", "4", "-r", "100", "--csv", "RL.ALLOW", "checkout", "user:__rand_int__", "100/min"); !strings.Contains(got, "RL.ALLOW") {
		t.Errorf("redis-benchmark: %q", got)
	}
	if n := d.metric(t, "ratelimitd_resp_commands_total", "command=RL.ALLOW", "result=ok"); n < 2002 {
		t.Errorf("%v commands are counted, want at least 2002", n)
	}
}

// TestRESPGreetings answers what client libraries begin with.
func TestRESPGreetings(t *testing.T) {
	d := startRESP(t, Options{})
	c := d.raw(t)
	for _, tt := range []struct{ send, want string }{
		{"PING\r\n", "+PONG\r\n"},
		{"*2\r\n$4\r\nPING\r\n$2\r\na\n\r\n", "$2\r\na\n\r\n"},
		{"ECHO a\r\n", "$1\r\na\r\n"},
		{"SELECT 0\r\n", "+OK\r\n"},
		{"SELECT 1\r\n", "-ERR SELECT \"1\": there is no such database; write SELECT 0\r\n"},
		{"CLIENT SETNAME a\r\nCLIENT SETINFO LIB-NAME x\r\n", "+OK\r\n+OK\r\n"},
		{"CLIENT KILL a\r\n", "-ERR CLIENT \"KILL\": use CLIENT ID, CLIENT SETNAME name or CLIENT SETINFO attribute value\r\n"},
		{"COMMAND COUNT\r\n", ":18\r\n"},
		{"COMMAND DOCS\r\n", "*0\r\n"},
		{"COMMAND INFO rl.allow x\r\n", "*2\r\n*6\r\n$8\r\nrl.allow\r\n:-4\r\n*1\r\n+fast\r\n:2\r\n:2\r\n:1\r\n$-1\r\n"},
		{"HELLO 4\r\n", "-NOPROTO unsupported protocol version \"4\"; write HELLO 2 or HELLO 3\r\n"},
		{"HELLO 3 SETINFO x\r\n", "-ERR HELLO: \"SETINFO\" is no option of it; write HELLO [2|3] [AUTH user token] [SETNAME name], such as HELLO 3\r\n"},
		{"AUTH a\r\n", "-ERR AUTH: this server knows no clients, so nobody needs a token; leave it out, or start the server with --auth-file\r\n"},
		{"*0\r\n\r\nRESET\r\n", "+RESET\r\n"},
		{"PING a b\r\n", "-ERR wrong number of arguments for PING; write PING [message]\r\n"},
		{"QUIT\r\nPING\r\n", "+OK\r\n"},
	} {
		if _, err := io.WriteString(c, tt.send); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(tt.want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != tt.want {
			t.Fatalf("%q: %q, %v; want %q", tt.send, got, err, tt.want)
		}
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after QUIT: %q, %v", rest, err)
	}
	hello := says(t, d.redis(t, redis.Options{}), "HELLO", 3).(map[any]any)
	if hello["server"] != "ratelimitd" || hello["proto"] != int64(3) || hello["role"] != "master" {
		t.Errorf("HELLO: %v", hello)
	}
}

// raw returns a connection to the port, whose reads do not wait for ever.
func (d *daemon) raw(t testing.TB) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.RESPAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patient))
	return c
}

// TestRESPCloses sends what is no protocol: the reply says so, and nothing after it is
// answered.
func TestRESPCloses(t *testing.T) {
	d := startRESP(t, Options{})
	for send, want := range map[string]string{
		"*1\r\n$9223372036854775807\r\nPING\r\n":            "-ERR protocol error: more than 16384 bytes in an argument\r\n",
		"PING\r\n*1000000\r\n":                              "+PONG\r\n-ERR protocol error: more than 320 arguments\r\n",
		"*1\r\n:5\r\nPING\r\n":                              "-ERR protocol error: expected '$', got \":\"\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nPING\r\n":         `-ERR unknown command "GET"; use RL.ALLOW, RL.POLICY, RL.RESET, RL.RESERVE, RL.COMMIT, RL.CANCEL, CL.THROTTLE or THROTTLE: see docs/resp.md` + "\r\n",
		strings.Repeat("x", 16<<10):                         "-ERR protocol error: a command has more than 16384 bytes; no valid one has\r\n",
		"RL.ALLOW checkout a 5/h\r\nPING \"a\"\r\nPING\r\n": "*5\r\n:1\r\n:5\r\n:4\r\n:0\r\n:3600000000\r\n-ERR protocol error: an inline command has a quote; send the command as an array, as redis-cli does\r\n",
	} {
		c := d.raw(t)
		if _, err := io.WriteString(c, send); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if string(got) != want || err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%.60q: %q, %v; want %q", send, got, err, want)
		}
	}
}

// TestRESPPermissions asks as several clients.
func TestRESPPermissions(t *testing.T) {
	c := policyConfig(t, checkout)
	c.Clients = known(t)
	d := startRESP(t, Options{Config: c})
	stranger := d.raw(t)
	const command = "RL.ALLOW checkout a 5/h\r\n"
	if _, err := io.WriteString(stranger, "PING\r\n"+command+"AUTH wrong\r\nAUTH "+tokens["shop"]+"\r\n"+command+"RESET\r\n"+command+"QUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(stranger)
	lines := strings.Split(string(got), "\r\n")
	for i, want := range []string{"+PONG", "-NOAUTH ", "-WRONGPASS ", "+OK", "*5", ":1", ":5", ":4", ":0", ":3600000000", "+RESET", "-NOAUTH ", "+OK", ""} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d of %q, want %q", i, lines, want)
		}
	}
	as := func(name string) *redis.Client {
		return d.redis(t, redis.Options{Username: "whoever", Password: tokens[name], Protocol: 3})
	}
	for _, tt := range []struct{ client, command, want string }{
		{"shop", "RL.ALLOW other a 5/h", `NOPERM client "shop" has no permission for operation decide in namespace "other"`},
		{"shop", "RL.RESET checkout a 5/h", `NOPERM client "shop" has no permission for operation reset`},
		{"shop", "RL.ALLOW checkout a 5/h MODE charge", `NOPERM client "shop" has no permission for operation charge`},
		{"shop", "CL.THROTTLE a 1 1 60", `NOPERM client "shop" has no permission for operation decide in namespace "throttle"`},
		{"gold", "RL.ALLOW checkout a 5/h", `NOPERM client "gold" has no permission`},
		{"idle", "RL.ALLOW checkout a 5/h", `NOPERM client "idle" has no permission`},
		{"ops", "RL.RESET checkout a 5/h", "OK"},
		{"ops", "CL.THROTTLE a 1 1 60", "[0 2 1 -1 60]"},
	} {
		if got := fmt.Sprint(says(t, as(tt.client), words(tt.command)...)); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s as %s: %s, want %s", tt.command, tt.client, got, tt.want)
		}
	}
	// A token that is withdrawn is of no use on a connection that is open.
	shop := as("shop")
	if got := says(t, shop, words(command)...); fmt.Sprint(got) == "" {
		t.Error(got)
	}
	next := *c
	next.Clients = clients(t, "clients: []")
	d.SetConfig(&next)
	if got, _ := says(t, shop, words(command)...).(string); !strings.HasPrefix(got, "NOAUTH ") {
		t.Errorf("with a token that is withdrawn: %v", got)
	}
}

// TestRESPReset resets on an address that others reach.
func TestRESPReset(t *testing.T) {
	for _, tt := range []struct {
		addr  string
		allow bool
		want  string
	}{{"127.0.0.1:0", false, "OK"}, {":0", false, "NOPERM operation reset is not open to everybody"}, {":0", true, "OK"}} {
		d := startRESP(t, Options{RESPAddr: tt.addr, Trust: Trust{AllowReset: tt.allow}})
		if got, _ := says(t, d.redis(t, redis.Options{}), words("RL.RESET checkout a 5/h")...).(string); !strings.HasPrefix(got, tt.want) {
			t.Errorf("on %s: %s, want %s", tt.addr, got, tt.want)
		}
		if open := tt.addr == ":0"; (d.log.lines("no authentication") > 0) != open {
			t.Errorf("on %s the log does not say whether it is open", tt.addr)
		}
	}
}

// TestRESPOverTLS connects with TLS, and with certificates.
func TestRESPOverTLS(t *testing.T) {
	own := authtest.NewAuthority(t, "servers")
	pair := pairOf(t, own.Issue(t, "127.0.0.1"), own, 0)
	d := startRESP(t, Options{Trust: Trust{TLS: pair, RESP: true}})
	if got := says(t, d.redis(t, redis.Options{TLSConfig: own.Client(t, nil)}), "PING"); got != "PONG" {
		t.Errorf("with TLS: %v", got)
	}
	if got, _ := says(t, d.redis(t, redis.Options{}), "PING").(string); got == "PONG" {
		t.Error("it answers without TLS")
	}
	if d.log.lines("a TLS handshake failed") != 1 {
		t.Error("the log does not say that a handshake failed")
	}
	anyone, err := auth.Certified(nil)
	if err != nil {
		t.Fatal(err)
	}
	mutual := startRESP(t, Options{Config: &Config{Clients: anyone}, Trust: Trust{TLS: pair, RESP: true}})
	certificate := own.Issue(t, "a")
	if got := fmt.Sprint(says(t, mutual.redis(t, redis.Options{TLSConfig: own.Client(t, &certificate), Protocol: 2}), words("RL.ALLOW checkout a 5/h")...)); got != "[1 5 4 0 3600000000]" {
		t.Errorf("with a certificate: %s", got)
	}
	if got, _ := says(t, mutual.redis(t, redis.Options{TLSConfig: own.Client(t, nil)}), "PING").(string); got == "PONG" {
		t.Error("it answers without a certificate")
	}
}

// TestRESPFailures has the store fail, as each failure policy wants it answered.
func TestRESPFailures(t *testing.T) {
	for onError, want := range map[policy.OnError]string{
		policy.FailAllow: "[1 -1 -1 0 -1]", policy.FailDeny: "[0 -1 -1 -1 -1]", policy.FailError: "UNAVAILABLE the store failed: ",
	} {
		d := startRESP(t, Options{Store: noRedis(t), StoreName: "redis", OnError: onError})
		client := d.redis(t, redis.Options{Protocol: 2})
		if got := fmt.Sprint(says(t, client, words("RL.ALLOW checkout a 5/h")...)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", onError, got, want)
		}
		cell := map[policy.OnError]string{policy.FailAllow: "[0 16 16 -1 0]", policy.FailDeny: "[1 16 0 -1 0]", policy.FailError: "UNAVAILABLE "}[onError]
		if got := fmt.Sprint(says(t, client, words("CL.THROTTLE a 15 30 60")...)); !strings.HasPrefix(got, cell) {
			t.Errorf("%s: CL.THROTTLE: %s, want %s", onError, got, cell)
		}
	}
}

// TestRESPPanic has a defect of ours end one connection alone.
func TestRESPPanic(t *testing.T) {
	d := startRESP(t, Options{Store: panickingStore{}, StoreName: "memory"})
	c := d.raw(t)
	other := d.raw(t)
	if _, err := io.WriteString(c, "PING\r\nRL.ALLOW checkout a 5/h\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(c); string(got) != "+PONG\r\n-INTERNAL internal error: see the server's log\r\n" {
		t.Errorf("%q", got)
	}
	if n := d.book.Panics.Load(); n != 1 {
		t.Errorf("%d panics are counted", n)
	}
	_, _ = io.WriteString(other, "PING\r\n")
	if got := make([]byte, 7); func() error { _, err := io.ReadFull(other, got); return err }() != nil || string(got) != "+PONG\r\n" {
		t.Errorf("another connection: %q", got)
	}
}

// TestRESPBounds holds connections to what they may have.
func TestRESPBounds(t *testing.T) {
	bounds := config.DefaultBounds()
	bounds.MessageTimeout, bounds.ConnectionIdle = 200*time.Millisecond, 400*time.Millisecond
	d := startRESP(t, Options{Bounds: bounds})
	idle, slow := d.raw(t), d.raw(t)
	if _, err := io.WriteString(slow, "PING\r\n*2\r\n$4\r\nPI"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(slow); string(got) != "+PONG\r\n" || err != nil {
		t.Errorf("a command that does not end: %q, %v", got, err)
	}
	if got, err := io.ReadAll(idle); len(got) > 0 || err != nil {
		t.Errorf("an idle connection: %q, %v", got, err)
	}

	bounds = config.DefaultBounds()
	bounds.Calls = 1
	held := &slowStore{begun: make(chan struct{}, 1), end: make(chan struct{})}
	full := startRESP(t, Options{Bounds: bounds, Store: held, StoreName: "memory"})
	first := full.raw(t)
	if _, err := io.WriteString(first, "RL.ALLOW checkout a unlimited\r\nRL.ALLOW checkout a 5/h\r\n"); err != nil {
		t.Fatal(err)
	}
	<-held.begun
	client := full.redis(t, redis.Options{Protocol: 2})
	if got, _ := says(t, client, words("RL.ALLOW checkout b 5/h")...).(string); !strings.HasPrefix(got, "OVERLOADED too many calls are under way") {
		t.Errorf("one call too many: %v", got)
	}
	if got := says(t, client, "PING"); got != "PONG" {
		t.Errorf("a PING: %v", got)
	}
	close(held.end)
	if n := full.metric(t, "ratelimitd_calls_refused_total"); n < 1 {
		t.Errorf("%v calls are counted as refused", n)
	}
}

// TestRESPUnread has a client ask for replies and not read them: it does not make the
// daemon hold them.
func TestRESPUnread(t *testing.T) {
	d := startRESP(t, Options{})
	c := d.raw(t)
	command := bytes.Repeat([]byte("COMMAND\r\n"), 100)
	took := allocated(func() {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		for range 10_000 {
			if _, err := c.Write(command); err != nil {
				return // the daemon reads no more
			}
		}
		t.Error("the daemon takes more and more commands without a reply that is read")
	})
	if took > 8<<20 {
		t.Errorf("it took %d MB", took>>20)
	}
}

// TestRESPShutdown stops a daemon with connections that are idle, and one whose command
// is under way.
func TestRESPShutdown(t *testing.T) {
	held := &slowStore{begun: make(chan struct{}, 1), end: make(chan struct{})}
	d := startRESP(t, Options{Store: held, StoreName: "memory"})
	idle, busy := d.raw(t), d.raw(t)
	_, _ = io.WriteString(idle, "PING\r\n")
	_, _ = io.ReadFull(idle, make([]byte, 7))
	_, _ = io.WriteString(busy, "RL.ALLOW checkout a 5/h\r\n")
	<-held.begun
	stopped := make(chan error, 1)
	go func() { stopped <- d.stop() }()
	if got, err := io.ReadAll(idle); len(got) > 0 || err != nil {
		t.Errorf("an idle connection: %q, %v", got, err)
	}
	close(held.end)
	if got, err := io.ReadAll(busy); !strings.HasPrefix(string(got), "*5\r\n:1\r\n") || err != nil {
		t.Errorf("what was under way: %q, %v", got, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestRESPShutdownCut stops a daemon whose store does not answer.
func TestRESPShutdownCut(t *testing.T) {
	held := &deafStore{slowStore{begun: make(chan struct{}, 1)}}
	d := startRESP(t, Options{Store: held, StoreName: "memory", DrainTimeout: 50 * time.Millisecond})
	c := d.raw(t)
	_, _ = io.WriteString(c, "RL.ALLOW checkout a 5/h\r\n")
	<-held.begun
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if d.log.lines("the protocol of Redis: connections are still busy") != 1 {
		t.Error("the log does not say that connections were cut")
	}
}

// A deafStore decides nothing until the caller is gone.
type deafStore struct{ slowStore }

// Decide implements store.Store.
func (s *deafStore) Decide(ctx context.Context, _ []store.Request, results []store.Result) {
	s.begun <- struct{}{}
	<-ctx.Done()
	for i := range results {
		results[i].Err = ctx.Err()
	}
}

// TestRESPDocs runs the examples of docs/resp.md.
func TestRESPDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/resp.md")
	if err != nil {
		t.Fatal(err)
	}
	d := startRESP(t, Options{})
	_, port, _ := net.SplitHostPort(d.RESPAddr())
	examples := 0
	for _, block := range strings.Split(string(page), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for _, example := range strings.Split(block, "$ redis-cli ")[1:] {
			command, want, _ := strings.Cut(example, "\n")
			got, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"--no-raw", "-p", port}, strings.Fields(command)...)...).Output()
			printed := strings.ReplaceAll(string(got), " \n", "\n")
			if err != nil || strings.TrimRight(printed, "\n") != strings.TrimRight(want, "\n") {
				t.Errorf("redis-cli %s prints, %v:\n%s\nwant\n%s", command, err, got, want)
			}
			examples++
		}
	}
	if examples < 6 {
		t.Errorf("the page has %d examples", examples)
	}
}
