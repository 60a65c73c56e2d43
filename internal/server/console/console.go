// Package console is the page for operators on the admin port: who is denied, by which
// limit, since when. It is one page of plain modules that a browser runs as they are, and
// the JSON that the page asks for.
package console

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// maxQuestionBytes is how long what the page asks is, but for policies and logs.
const maxQuestionBytes = 16 << 10

// Options say what the console shows. All are required.
type Options struct {
	Core        *decide.Core
	Book        *account.Book
	Latency     *histogram.Vec // of calls
	Metrics     prometheus.Gatherer
	Store       string // its name
	OnError     policy.OnError
	MaxLogCount int64
	// Configuration returns what is in force.
	Configuration func() Configuration
	Logger        *slog.Logger
}

// A Configuration is what is in force.
type Configuration struct {
	Policies *policy.Config
	Text     string // of Policies
	Domains  []string
	Reload   *reload.State // nil: nothing can change it
}

// A Console answers the page. New makes it.
type Console struct {
	Options
	history *account.History
	latency latency
	started time.Time
	mux     *http.ServeMux
	trying  chan struct{} // has room for the one trial that may run at a time
}

// New returns a Console. Call Run to have it remember what happens.
func New(o Options) *Console {
	now := time.Now()
	c := &Console{
		Options: o, started: now, trying: make(chan struct{}, 1), mux: http.NewServeMux(),
		history: account.NewHistory(o.Book, account.Outcomes{
			Denial:  func(outcome int) bool { return decide.Outcome(outcome).Denies() },
			Failure: func(outcome int) bool { return decide.Outcome(outcome).StoreFailed() },
		}, now),
		latency: latency{of: o.Latency, last: o.Latency.Counts(), before: o.Latency.Counts()},
	}
	c.mux.HandleFunc("GET /console/overview", c.overview)
	c.mux.HandleFunc("GET /console/policies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, c.Configuration().Text)
	})
	c.mux.HandleFunc("POST /console/look-up", c.lookUp)
	c.mux.HandleFunc("POST /console/reset", c.reset)
	return c
}

// Run remembers what happens, step by step, until done is closed.
func (c *Console) Run(done <-chan struct{}) {
	tick := time.NewTicker(account.StepTime)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			c.history.Step(now)
			c.latency.step()
		}
	}
}

// ServeHTTP answers what the page asks, below /console/. Whoever gets as far as this may
// administer the daemon.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodPost && !isJSON(r) {
		// Which no form of another page can send.
		http.Error(w, "send it as Content-Type: application/json", http.StatusUnsupportedMediaType)
		return
	}
	c.mux.ServeHTTP(w, r)
}

// isJSON reports whether a request says that its body is JSON.
func isJSON(r *http.Request) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(kind) == "application/json"
}

// operator is who asks the core: whoever may administer the daemon may do this.
var operator = auth.Anonymous(auth.Decide, auth.Reset)

// who says who makes a request, for the log.
func who(r *http.Request) string {
	if c := auth.FromContext(r.Context()); c != nil && c.Name() != "" {
		return c.Name()
	}
	return r.RemoteAddr
}

// read reads the question of a request into v. It answers what is none, and reports
// whether it was one.
func read(w http.ResponseWriter, r *http.Request, maxBytes int64, v any) bool {
	body, err := web.ReadBody(w, r, maxBytes)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		err = d.Decode(v)
	}
	if err != nil {
		http.Error(w, "the question cannot be read: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

//go:embed assets/*.html assets/*.css assets/*.js assets/*.svg
var assets embed.FS

// policyOfPage is the content security policy: the page has nothing from elsewhere, no
// script or style within it, and makes no HTML of texts.
const policyOfPage = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// types are those of the files of the page. What the machine knows of types may be wrong.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// Page serves the page to browsers, at / and below /console/assets/. It needs no
// credentials: the page has no data, and asks for a token if it needs one. All else goes to
// next.
func Page(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, isAsset := strings.CutPrefix(r.URL.Path, "/console/assets/")
		isPage := r.URL.Path == "/" && strings.Contains(r.Header.Get("Accept"), "text/html")
		if !isAsset && !isPage || r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		if isPage {
			name = "console.html"
		}
		text, err := assets.ReadFile("assets/" + name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Content-Security-Policy", policyOfPage)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Vary", "Accept")
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(text)
	})
}
