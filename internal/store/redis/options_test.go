package redis

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestNewRefuses(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	tls := []string{"rediss://localhost"}
	for _, tt := range []struct {
		options Options
		want    []string // in the error
	}{
		{Options{URLs: []string{"localhost:6379"}}, []string{`URL "localhost:6379"`, DefaultURL}},
		{Options{URLs: []string{"http://localhost"}}, []string{`"http://localhost"`, DefaultURL}},
		{Options{URLs: []string{"unix:///run/redis.sock"}}, []string{`"unix:///run/redis.sock"`, DefaultURL}},
		{Options{URLs: []string{"redis://"}}, []string{`"redis://"`, "no host", DefaultURL}},
		{Options{URLs: []string{"redis://u:hunter2@h:port"}}, []string{`"redis://...@h:port"`, DefaultURL}},
		{Options{URLs: []string{"redis://u:hunt/er2@h"}}, []string{`"redis://...@h"`, "%2F", DefaultURL}},
		{Options{URLs: []string{"redis://u:hunt#er2@h"}}, []string{`"redis://...@h"`}},
		{Options{URLs: []string{"u:hunter2@h"}}, []string{`"...@h"`}},
		{Options{URLs: []string{"redis://:hunter2@localhost:6379/x"}}, []string{`"redis://...@localhost:6379/x"`, "database"}},
		{Options{URLs: []string{"redis://localhost/-1"}}, []string{"database"}},
		{Options{URLs: []string{"redis://localhost?pool_size=3"}}, []string{`"redis://localhost?pool_size=3"`, "?"}},
		{Options{URLs: []string{"redis://a", "rediss://b"}}, []string{`"rediss://b"`, "use one of them for all"}},
		{Options{URLs: []string{"redis://u:hunter2@a", "redis://u:hunter3@b"}}, []string{`"redis://...@b"`, "first"}},
		{Options{URLs: []string{"redis://a/1", "redis://b/1"}}, []string{"database 1", "cluster"}},
		{Options{Cluster: true, Database: 2}, []string{"database 2", "cluster"}},
		{Options{Database: -2}, []string{"database -2"}},
		{Options{Cluster: true, MasterName: "m"}, []string{`sentinel master name "m"`}},
		{Options{MasterName: "m", URLs: []string{"sentinel"}}, []string{`"sentinel"`, ":26379"}},
		{Options{SentinelUser: "bob"}, []string{`sentinel user "bob"`, "mymaster"}},
		{Options{SentinelPassword: "hunter2"}, []string{"sentinel password", "mymaster"}},
		{Options{User: "bob"}, []string{`user "bob"`, "password"}},
		{Options{Timeout: -1}, []string{"timeout -1ns", "50ms"}},
		{Options{DialTimeout: -time.Second}, []string{"dial timeout -1s", "1s"}},
		{Options{PoolSize: -1}, []string{"pool size -1", "8"}},
		{Options{MinIdle: -1}, []string{"min idle -1"}},
		{Options{MinIdle: 9}, []string{"min idle 9", "8"}},
		{Options{CAFile: "ca.pem"}, []string{`TLS CA file "ca.pem"`, "rediss://"}},
		{Options{ServerName: "h"}, []string{`TLS server name "h"`, "rediss://"}},
		{Options{URLs: tls, CAFile: "/nowhere/ca.pem"}, []string{`TLS CA file "/nowhere/ca.pem"`}},
		{Options{URLs: tls, CAFile: notPEM}, []string{"TLS CA file", notPEM, "PEM"}},
		{Options{URLs: tls, CertFile: "cert.pem"}, []string{`TLS certificate file "cert.pem"`, "both"}},
		{Options{URLs: tls, CertFile: notPEM, KeyFile: notPEM}, []string{"TLS certificate file", notPEM}},
	} {
		s, err := New(tt.options)
		if err == nil {
			_ = s.Close()
			t.Errorf("New(%+v) succeeds", tt.options)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("New(%+v): %v; want %s in it", tt.options, err, want)
			}
		}
		for _, secret := range []string{"hunt", "er2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("New(%+v): %v; which gives a password away", tt.options, err)
			}
		}
	}
}

func TestPasswordAndDatabase(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	for _, command := range [][]any{
		{"ACL", "SETUSER", "counter", "on", ">s@cret", "~*", "+@all"},
		{"CONFIG", "SET", "requirepass", "other"},
	} {
		if err := client.Do(t.Context(), command...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name, o := range map[string]Options{
		"in the URL": {URLs: []string{"redis://counter:s%40cret@" + server.Addr + "/3"}},
		"beside it":  {URLs: []string{server.URL}, User: "counter", Password: "s@cret", Database: 3},
		"over it":    {URLs: []string{"redis://nobody:wrong@" + server.Addr + "/7"}, User: "counter", Password: "s@cret", Database: 3},
	} {
		if err := openWith(t, o).Health(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, o := range []Options{{URLs: []string{server.URL}}, {URLs: []string{server.URL}, User: "counter", Password: "wrong"}} {
		err := openWith(t, o).Health(t.Context())
		if err == nil || strings.Contains(err.Error(), "s@cret") {
			t.Errorf("with a wrong password: %v", err)
		}
	}
}

func TestTLS(t *testing.T) {
	server := redistest.StartTLS(t)
	good := Options{URLs: []string{server.URL}, CAFile: server.CAFile, CertFile: server.CertFile, KeyFile: server.KeyFile}
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "5/h"}), Cost: 1}
	for name, change := range map[string]func(*Options){
		"as it is":               func(*Options) {},
		"by its name":            func(o *Options) { o.ServerName = "counters.test" },
		"! by another name":      func(o *Options) { o.ServerName = "other.test" },
		"! no authority":         func(o *Options) { o.CAFile = "" },
		"! no certificate":       func(o *Options) { o.CertFile, o.KeyFile = "", "" },
		"! not TLS, to TLS port": func(o *Options) { *o = Options{URLs: []string{"redis://" + server.Addr}, Timeout: time.Second} },
	} {
		o := good
		change(&o)
		res := decide(t.Context(), openWith(t, o), r)
		if refused := strings.HasPrefix(name, "!"); (res.Err != nil) != refused {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
}

// TestUserAndPasswordApart has the user in the URL, and the password in an option.
func TestUserAndPasswordApart(t *testing.T) {
	o, err := Options{URLs: []string{"redis://ratelimitd@localhost"}, Password: "secret"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if u, _, err := o.universal(); err != nil || u.Username != "ratelimitd" || u.Password != "secret" {
		t.Errorf("%+v, %v; want the user of the URL with the password", u, err)
	}
	o.Password = ""
	if _, _, err := o.universal(); err == nil || !strings.Contains(err.Error(), `user "ratelimitd": give a password too`) {
		t.Errorf("without a password: %v", err)
	}
}
