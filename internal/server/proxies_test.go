package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const webPolicies = `
web: {policies: {default: {limits: [{name: burst, rate: 5/min}]}}}
`

// A proxy is a real reverse proxy with the configuration that users copy.
type proxy struct {
	name, config   string
	edit           []string // what of the configuration is other in a test, old and new
	check, command []string // CONFIG stands for the file
}

var proxies = []proxy{
	{
		name: "nginx", config: "../../deploy/nginx/nginx.conf",
		edit: []string{
			"listen 80;", "listen ADDR;",
			"http {\n", "error_log stderr;\npid DIR/pid;\ndaemon off;\nhttp {\n    access_log off;\n    client_body_temp_path DIR/b;\n    proxy_temp_path DIR/p;\n    fastcgi_temp_path DIR/f;\n    uwsgi_temp_path DIR/u;\n    scgi_temp_path DIR/s;\n",
		},
		check: []string{"nginx", "-t", "-e", "stderr", "-c", "CONFIG"}, command: []string{"nginx", "-e", "stderr", "-c", "CONFIG"},
	},
	{
		name: "caddy", config: "../../deploy/caddy/Caddyfile",
		edit:  []string{":80 {", "{\n\tadmin off\n\tauto_https off\n}\nhttp://ADDR {"},
		check: []string{"caddy", "validate", "--adapter", "caddyfile", "--config", "CONFIG"}, command: []string{"caddy", "run", "--adapter", "caddyfile", "--config", "CONFIG"},
	},
}

// run starts p in front of backend, asking a daemon's HTTP address, and returns its URL.
func (p *proxy) run(t *testing.T, asked, backend string) string {
	t.Helper()
	binary, err := exec.LookPath(p.name)
	if err != nil && p.name == "nginx" {
		binary, err = exec.LookPath("/usr/sbin/nginx") // which not everyone has on the path
	}
	if err != nil {
		t.Fatalf("%v; run scripts/install-test-deps.sh", err)
	}
	dir, addr := t.TempDir(), freeAddr(t)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	for i := 0; i < len(p.edit); i += 2 {
		if strings.Count(config, p.edit[i]) != 1 {
			t.Fatalf("%s does not have %q once", p.config, p.edit[i])
		}
		config = strings.Replace(config, p.edit[i], p.edit[i+1], 1)
	}
	config = strings.NewReplacer("127.0.0.1:8080", asked, "127.0.0.1:3000", backend, "ADDR", addr, "DIR", dir).Replace(config)
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}

	command := func(args []string, log io.Writer) *exec.Cmd {
		cmd := exec.Command(binary)
		for _, a := range args[1:] {
			cmd.Args = append(cmd.Args, strings.Replace(a, "CONFIG", file, 1))
		}
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
		cmd.Stdout, cmd.Stderr = log, log
		return cmd
	}
	log := new(lockedBuffer)
	if err := command(p.check, log).Run(); err != nil {
		t.Fatalf("%s refuses %s: %v\n%s", p.name, p.config, err, log.buf.Bytes())
	}
	cmd := command(p.command, log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(patient, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", p.name, log.buf.Bytes())
		}
	})
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
			return "http://" + addr + "/"
		}
		if time.Since(begun) > patient {
			t.Fatalf("%s does not listen: %v", p.name, err)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An httpAnswer is a response whose body was read.
type httpAnswer struct {
	StatusCode int
	Status     string
	Header     http.Header
}

// fetch asks url and returns the answer and its body.
func fetch(t *testing.T, method, url, body string, header http.Header) (httpAnswer, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	transport := &http.Transport{} // which does not ask to close the connection, as few clients do
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	reply, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return httpAnswer{}, ""
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Error(err)
	}
	return httpAnswer{reply.StatusCode, reply.Status, reply.Header}, string(text)
}

func TestProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			d := start(t, Options{Config: policyConfig(t, webPolicies)})
			var served atomic.Int64
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s", r.Method, body)
			}))
			defer backend.Close()
			url := p.run(t, d.HTTPAddr(), backend.Listener.Addr().String())

			// Each request claims to be of another client: that counts for nothing.
			var passed, denied atomic.Int64
			var callers sync.WaitGroup
			for i := range 20 {
				callers.Go(func() {
					reply, text := fetch(t, http.MethodPost, url, "payload", http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}})
					switch {
					case reply.StatusCode == http.StatusOK && text == "POST payload":
						passed.Add(1)
					case reply.StatusCode == http.StatusTooManyRequests && reply.Header.Get("Retry-After") == "60" &&
						reply.Header.Get("RateLimit") == `"burst";r=0;t=60` && reply.Header.Get("RateLimit-Policy") == `"burst";q=5;w=60`:
						denied.Add(1)
					default:
						t.Errorf("%s %v %q", reply.Status, reply.Header, text)
					}
				})
			}
			callers.Wait()
			if passed.Load() != 5 || denied.Load() != 15 || served.Load() != 5 {
				t.Errorf("%d passed, %d denied, %d served; want 5, 15, 5", passed.Load(), denied.Load(), served.Load())
			}

			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			want := map[string]int{"nginx": http.StatusOK, "caddy": http.StatusBadGateway}[p.name]
			if reply, _ := fetch(t, http.MethodGet, url, "", nil); reply.StatusCode != want {
				t.Errorf("without ratelimitd: %s, want %d", reply.Status, want)
			}
		})
	}
}

// TestProxiesWithoutAnAnswer has a daemon that takes connections and never answers, as one
// that was stopped with SIGSTOP: proxies give up on it soon.
func TestProxiesWithoutAnAnswer(t *testing.T) {
	hangs, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // whose backlog takes them
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hangs.Close() }()
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			url := p.run(t, hangs.Addr().String(), backend.Listener.Addr().String())
			reply, _ := fetch(t, http.MethodGet, url, "", nil) // which waits no longer than is patient
			want := map[string][]int{"nginx": {http.StatusOK}, "caddy": {http.StatusBadGateway, http.StatusGatewayTimeout}}[p.name]
			if !slices.Contains(want, reply.StatusCode) {
				t.Errorf("%s, want one of %v", reply.Status, want)
			}
		})
	}
}
