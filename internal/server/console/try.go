package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

const (
	// pathReplay takes a form with a file, and all others JSON.
	pathReplay = "/console/replay"

	maxPolicyBytes = 1 << 20 // of a configuration that is tried
	maxProblems    = 50      // that are shown of it
	maxTrials      = 20      // identifiers that are tried at a time
	maxLogBytes    = 64 << 20
	maxFieldBytes  = 2048 // of a field of a form
	// A replay holds this many identifiers, at some hundred bytes each, and counters, at
	// about as much: some ten megabytes in all.
	maxReplayed, maxReplayKeys = 50_000, 100_000
	// replayTime is how long a replay may take, with its log.
	replayTime  = time.Minute
	replayLines = 10 // of each list

	// nameOfText is what problems call a configuration that was pasted.
	nameOfText = "configuration"
)

// A verdict is what is wrong with a configuration.
type verdict struct {
	Kind       string      `json:"kind"` // "config" or "envoy"
	Problems   []problem   `json:"problems"`
	LeftOut    int         `json:"left_out"`
	Warnings   []string    `json:"warnings"`
	Namespaces []namespace `json:"namespaces"`
}

// A problem is one thing that is wrong, at its place. Line is 0 if it has none.
type problem struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
	Source string `json:"source"`
}

type namespace struct {
	Name     string   `json:"name"`
	Policies []string `json:"policies"`
}

// A bench tries configurations.
type bench struct {
	*Options
	running chan struct{} // has room for the one replay that may run at a time
}

// validate answers POST /console/validate: what is wrong with a configuration, as the
// command validate says it.
func (b *bench) validate(w http.ResponseWriter, r *http.Request) {
	var q struct {
		YAML string `json:"yaml"`
	}
	if !read(w, r, 2*maxPolicyBytes, &q) || !fits(w, q.YAML) {
		return
	}
	p, err := config.Try(nameOfText, []byte(q.YAML), b.MaxLogCount)
	v := &verdict{Kind: "config", Problems: []problem{}, Warnings: append([]string{}, p.Warnings...), Namespaces: []namespace{}}
	if p.Domains != nil {
		v.Kind = "envoy"
	}
	v.Problems, v.LeftOut = problemsOf(err)
	if err == nil {
		for _, name := range slices.Sorted(maps.Keys(p.Namespaces.Namespaces())) {
			v.Namespaces = append(v.Namespaces, namespace{name, slices.Sorted(maps.Keys(p.Namespaces.Namespace(name).Policies()))})
		}
	}
	web.WriteJSON(w, v)
}

// fits answers a configuration that is too long, and reports whether it is not.
func fits(w http.ResponseWriter, text string) bool {
	if len(text) > maxPolicyBytes {
		http.Error(w, fmt.Sprintf("the configuration has more than %d bytes; try it with ratelimitd validate", maxPolicyBytes), http.StatusRequestEntityTooLarge)
		return false
	}
	return true
}

func problemsOf(err error) (all []problem, leftOut int) {
	all = []problem{}
	var found yamlfile.Problems
	switch {
	case err == nil:
	case errors.As(err, &found):
		leftOut = max(0, len(found)-maxProblems)
		for _, p := range found[:len(found)-leftOut] {
			all = append(all, problem{p.Line, p.Column, p.Text, p.Source})
		}
	default:
		all = append(all, problem{Text: err.Error()})
	}
	return all, leftOut
}

// A trial is what one identifier would get, with counters that nobody has used.
type trial struct {
	*finding
	AtOnce *uint64 `json:"at_once"` // how many such requests, if one policy was asked; nil: all
}

// try answers POST /console/try: what identifiers would get by a configuration.
func (b *bench) try(w http.ResponseWriter, r *http.Request) {
	var q struct {
		YAML        string   `json:"yaml"`
		Namespace   string   `json:"namespace"`
		Policy      string   `json:"policy"`
		Identifiers []string `json:"identifiers"`
		Cost        uint64   `json:"cost"`
	}
	if !read(w, r, 2*maxPolicyBytes, &q) || !fits(w, q.YAML) {
		return
	}
	if n := len(q.Identifiers); n == 0 || n > maxTrials {
		http.Error(w, fmt.Sprintf("identifiers: %d of them; give 1 to %d", n, maxTrials), http.StatusBadRequest)
		return
	}
	p, err := config.Try(nameOfText, []byte(q.YAML), b.MaxLogCount)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	trials := []trial{}
	for _, identifier := range q.Identifiers {
		one := question{Namespace: q.Namespace, Policy: q.Policy, Identifier: identifier, Cost: q.Cost}
		found, err := one.find(p.Namespaces, b.OnError, func(batch *decide.Batch) error {
			return b.Trials.Ask(r.Context(), p, b.MaxLogCount, batch)
		})
		if err != nil {
			web.WriteError(w, 0, err)
			return
		}
		trials = append(trials, trial{found, found.atOnce()})
	}
	web.WriteJSON(w, map[string]any{"trials": trials})
}

// atOnce returns how many requests are allowed at once by counters that nobody has used, or
// nil if all are.
func (f *finding) atOnce() *uint64 {
	if f.Exempt != nil || f.Cost == 0 || len(f.Policies) != 1 {
		return nil
	}
	var least *uint64
	for _, l := range f.Policies[0].Limits {
		if n := l.Most / f.Cost; !l.Shadow && !l.Unlimited && (least == nil || n < *least) {
			least = &n
		}
	}
	return least
}

// replay answers POST /console/replay: what a configuration would have done to the requests
// of a log. The form has the fields yaml, namespace, policy and identifier, and then the
// file log.
func (b *bench) replay(w http.ResponseWriter, r *http.Request) {
	select {
	case b.running <- struct{}{}:
		defer func() { <-b.running }()
	default:
		http.Error(w, "another replay is under way; ask again when it is done", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), replayTime)
	defer cancel()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(replayTime)) // later than that of other bodies
	r.Body = http.MaxBytesReader(w, r.Body, maxLogBytes+2*maxPolicyBytes)
	t, err := b.readTrial(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	found, err := b.Trials.Replay(ctx, t)
	var page bytes.Buffer
	if err == nil {
		err = found.HTML(&page)
	}
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		http.Error(w, fmt.Sprintf("the log has more than %d MiB; replay it with the command ratelimitd replay", maxLogBytes>>20), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		// Without the dashes and the name that belong to the command line.
		http.Error(w, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "--"), "-: "), http.StatusBadRequest)
		return
	}
	web.WriteJSON(w, map[string]any{"report": found, "page": page.String()})
}

// readTrial reads the form of a replay up to its log, which it leaves to be read.
func (b *bench) readTrial(r *http.Request) (*Trial, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("log: missing; choose a file")
		}
		if err != nil {
			return nil, err
		}
		if part.FormName() == "log" {
			return b.trialOf(fields, part)
		}
		most := int64(maxFieldBytes)
		if part.FormName() == "yaml" {
			most = maxPolicyBytes
		}
		text, err := io.ReadAll(io.LimitReader(part, most+1))
		if err != nil {
			return nil, err
		}
		if int64(len(text)) > most {
			return nil, fmt.Errorf("%s: more than %d bytes", part.FormName(), most)
		}
		if len(fields) < 8 {
			fields[part.FormName()] = string(text)
		}
	}
}

// trialOf returns the replay of a log as the fields of a form say.
func (b *bench) trialOf(fields map[string]string, log *multipart.Part) (*Trial, error) {
	p, err := config.Try(nameOfText, []byte(fields["yaml"]), b.MaxLogCount)
	switch {
	case err != nil:
		return nil, err
	case p.Namespaces.Namespace(fields["namespace"]).Policy(fields["policy"]) == nil:
		return nil, fmt.Errorf("policy: namespace %s of this configuration has no policy %s", quote.Cut(fields["namespace"]), quote.Cut(fields["policy"]))
	}
	return &Trial{
		Policies: p, Namespace: fields["namespace"], Policy: fields["policy"], Identifier: fields["identifier"],
		Name: filepath.Base(log.FileName()), Log: log,
		MaxIdentifiers: maxReplayed, MaxKeys: maxReplayKeys, MaxLogCount: b.MaxLogCount, Lines: replayLines,
	}, nil
}
