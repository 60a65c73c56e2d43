// Package console is the page for operators on the admin port: who is denied, by which
// limit, since when. It is one page of plain modules that a browser runs as they are, and
// the JSON that the page asks for.
package console

import (
	"fmt"
	"net/http"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
)

// A Console answers the page. New makes it.
type Console struct {
	monitor *monitor
	mux     *http.ServeMux
}

// New returns a Console. Call Run to have it remember what happens.
func New(o Options) *Console {
	c := &Console{monitor: newMonitor(&o, time.Now()), mux: http.NewServeMux()}
	d, b := desk{&o}, &bench{&o, make(chan struct{}, 1)}
	c.mux.HandleFunc("GET /console/overview", c.monitor.overview)
	c.mux.HandleFunc("GET /console/policies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, o.Configuration().Text)
	})
	c.mux.HandleFunc("POST /console/look-up", d.lookUp)
	c.mux.HandleFunc("POST /console/reset", d.reset)
	c.mux.HandleFunc("POST /console/validate", b.validate)
	if o.Trials != nil {
		c.mux.HandleFunc("POST /console/try", b.try)
		c.mux.HandleFunc("POST "+pathReplay, b.replay)
	}
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
			c.monitor.step(now)
		}
	}
}

// ServeHTTP answers what the page asks, below /console/. Whoever gets as far as this may
// administer the daemon.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodPost && !isJSON(r) && r.URL.Path != pathReplay {
		// Which no form of another page can send.
		http.Error(w, "send it as Content-Type: application/json", http.StatusUnsupportedMediaType)
		return
	}
	c.mux.ServeHTTP(w, r)
}
