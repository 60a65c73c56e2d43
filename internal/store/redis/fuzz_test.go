package redis

import (
	"bytes"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// FuzzReply has a server reply anything to the script. A reply of another size is an
// error, and of what is decided by any other the figures are such as a limit can have.
func FuzzReply(f *testing.F) {
	r := store.Request{Namespace: "checkout", Identifier: "alice", Cost: 1}
	for _, of := range strategy.All {
		l, wrong := strategy.NewLimit(strategy.Spec{Rate: "3/10s", Strategy: of}, strategy.DefaultMaxLogCount)
		if wrong != nil {
			f.Fatal(wrong)
		}
		r.Limits = append(r.Limits, l)
	}
	one := composer{dialer: new(dialer)}.newExchange(&r, new(store.Result))
	size := sizeOfNow + one.size
	f.Add([]byte("short"))
	for _, fill := range []string{"\x00", "\xff", "\x7f\xf0\x00\x00\x00\x00\x00\x00", "\x41\xd9\x53\x00\x00\x00\x00\x00", "\x43\x38\x00\x00\x00\x00\x00\x00"} {
		f.Add(bytes.Repeat([]byte(fill), size)[:size])
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		if len(packed)%2 == 1 && len(packed) < size { // most are of the size that the script's have
			packed = append(packed, make([]byte, size-len(packed))...)
		}
		var res store.Result
		c := composer{dialer: new(dialer)}.newExchange(&r, &res)
		cmd := redis.NewStringCmd(t.Context())
		cmd.SetVal(string(packed))
		answers := make([]reply, 1)
		replies(cmd, nil, []question{c.question}, answers)
		c.reply = &answers[0]
		c.decide()
		if res.Err != nil {
			return
		}
		if len(packed) != size {
			t.Fatalf("a reply of %d bytes is decided", len(packed))
		}
		for i, s := range res.Statuses {
			if s.Remaining > s.Limit || s.ResetAfter < 0 || s.RetryAfter < 0 && s.RetryAfter != strategy.Never {
				t.Fatalf("limit %d: %+v", i, s)
			}
		}
	})
}

// FuzzParseURL reads URLs. What is wrong with one quotes no part of it, as each may be
// part of a password.
func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"redis://me:hunter2@127.0.0.1:6379/3", "rediss://:p%40ss@[::1]", "redis://a:b:c@d", "hunter2", "redis://h/x?y=z#w", "redis://h:99999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const secret = "VERYSECRET"
		_, addr, problem := parseURL(text, "6379")
		if (addr == "") == (problem == "") {
			t.Errorf("%q: address %q and problem %q", text, addr, problem)
		}
		_, _, problem = parseURL(strings.ReplaceAll(text, "@", secret+"@"), "6379")
		if strings.Contains(problem, secret) {
			t.Errorf("%q: %s", text, problem)
		}
	})
}
