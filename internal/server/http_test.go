package server

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A slowCollector collects when it is told to.
type slowCollector struct{ began, end chan struct{} }

func (slowCollector) Describe(chan<- *prometheus.Desc) {}

func (c slowCollector) Collect(chan<- prometheus.Metric) {
	c.began <- struct{}{}
	<-c.end
}

// TestScrapesAreBounded has more scrapes at a time than may be.
func TestScrapesAreBounded(t *testing.T) {
	c := slowCollector{make(chan struct{}, 100), make(chan struct{})}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	handler := metricsHandler(registry, slog.New(slog.DiscardHandler))
	scrape := func() int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", http.NoBody)) //nolint:usetesting // the test's ends before its scrapes do
		return w.Code
	}
	var scrapes sync.WaitGroup
	for range maxScrapes {
		scrapes.Go(func() {
			if code := scrape(); code != http.StatusOK {
				t.Errorf("a scrape within the bound gets %d", code)
			}
		})
	}
	for range maxScrapes {
		<-c.began
	}
	for range 10 {
		if code := scrape(); code != http.StatusServiceUnavailable {
			t.Errorf("a scrape beyond the bound gets %d, want 503", code)
		}
	}
	close(c.end)
	scrapes.Wait()
	if code := scrape(); code != http.StatusOK {
		t.Errorf("a scrape after the others gets %d", code)
	}
}

// TestErrorFloods has the same errors again and again.
func TestErrorFloods(t *testing.T) {
	var text strings.Builder
	logger := slog.New(slog.NewTextHandler(&text, nil))
	errors := log.New(newErrorLog(logger, "http"), "", 0)
	scrapes := &scrapeLog{logger: logger}
	for i := range 1000 {
		errors.Printf("http: TLS handshake error from 192.0.2.1:%d: EOF", i)
		errors.Printf("http: Accept error: too many open files; retrying in %v", time.Duration(i))
		errors.Printf("http: something else %d %s", i, strings.Repeat("x", 10_000))
		scrapes.Println("error encoding and sending metric family: write: broken pipe", i)
	}
	if lines := strings.Count(text.String(), "\n"); lines != 4 || text.Len() > 2000 {
		t.Errorf("%d lines in %d bytes, want one of each kind:\n%.3000s", lines, text.Len(), text.String())
	}
}
