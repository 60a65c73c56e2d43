package replay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
)

// defaultIdentifiers are as many as the memory store has counters by default.
const defaultIdentifiers = 1_000_000

// settings are what the flags say.
type settings struct {
	config, envoyDir              string
	current, currentEnvoyDir      string
	format                        string
	mapping                       string
	namespace, policy, identifier string
	domain                        string
	descriptors                   []string
	cost                          string
	fields                        []string
	zone                          string
	goal                          string
	lines, identifiers            int
	json                          bool
	html                          string

	set  *flags.Set
	file *mapping.File // of --mapping; nil: none
}

// ofRecords are the flags that say what a record asks. The file of --mapping may set them.
var ofRecords = []string{"format", "namespace", "policy", "identifier", "domain", "descriptor", "cost", "field", "time-zone"}

// newSettings returns the defaults.
func newSettings() *settings {
	s := &settings{identifier: accesslog.ClientAddress, cost: "1", zone: "UTC", format: "auto", lines: 10, identifiers: defaultIdentifiers}
	formats := []string{"auto"}
	for _, f := range accesslog.Formats {
		formats = append(formats, string(f))
	}
	const what = "What a record asks"
	s.set = &flags.Set{Flags: []flags.Flag{
		{Name: "config", Value: flags.Path(&s.config), Hint: "FILE", Help: "The configuration to try, as of \"ratelimitd serve\"."},
		{Name: "current", Value: flags.Path(&s.current), Hint: "FILE", Help: "The configuration to compare it with."},
		{Name: "envoy-config-dir", Value: flags.Path(&s.envoyDir), Hint: "DIR", Help: "The directory with Envoy's limits to try, as of \"ratelimitd serve\"."},
		{Name: "current-envoy-config-dir", Value: flags.Path(&s.currentEnvoyDir), Hint: "DIR", Help: "The directory with Envoy's limits to compare them with."},

		{Name: "mapping", Value: flags.Path(&s.mapping), Hint: "FILE", Group: what, Help: "A file that says what a record asks: the flags of this group, with _ for -, and the routes and rate_limits of Envoy."},
		{Name: "format", Value: flags.OneOf(&s.format, formats...), Group: what, Help: "How the logs are written: " + strings.Join(formats, ", ") + "; auto finds out."},
		{Name: "namespace", Value: flags.Text(&s.namespace), Hint: "NAME", Group: what, Help: "The namespace that is asked. A {field} is replaced by what the record has. Not needed if the configuration has one namespace."},
		{Name: "policy", Value: flags.Text(&s.policy), Hint: "NAME", Group: what, Help: "The policy that is asked; likewise."},
		{Name: "identifier", Value: flags.Text(&s.identifier), Hint: "FIELD", Group: what, Help: "Who is limited: a field, such as client_address or user, or a text with fields, such as user:{user}."},
		{Name: "domain", Value: flags.Text(&s.domain), Hint: "NAME", Group: what, Help: "For Envoy: the domain that is asked. Not needed if there is one."},
		{Name: "descriptor", Value: flags.Lines(&s.descriptors), Hint: "KEY=VALUE,...", Group: what, Help: "For Envoy: a descriptor that each record makes, such as remote_address={client_address},path=/login. Without one of its fields a record does not make it. Repeat it for several."},
		{Name: "cost", Value: flags.Text(&s.cost), Hint: "N", Group: what, Help: "What a record costs: a number, or a field in braces, such as {bytes_sent}."},
		{Name: "field", Value: flags.Lines(&s.fields), Hint: "NAME=PLACE", Group: what, Help: "In JSON and CSV: where a field is, such as time=when or user=auth.sub. Repeat it for several."},
		{Name: "time-zone", Value: flags.Text(&s.zone), Hint: "ZONE", Group: what, Help: "The zone of times that do not say theirs."},

		{Name: "suggest", Value: flags.Text(&s.goal), Hint: "GOAL", Help: "Also find the smallest limits that deny at most p=0.1% of requests, or identifiers=10."},
		{Name: "lines", Short: "n", Value: flags.Number(&s.lines), Help: "The most lines of each list."},
		{Name: "max-identifiers", Value: flags.Number(&s.identifiers), Help: "How many identifiers are told apart in the report. Each takes a few hundred bytes of memory."},
		{Name: "json", Value: flags.Bool(&s.json), Help: "Print the report as JSON."},
		{Name: "html", Value: flags.Path(&s.html), Hint: "FILE", Help: "Also write the report with plots to this file. It needs nothing else."},
	}}
	return s
}

// Command returns the command that says what limits would have done.
func Command() *command.Command {
	s := newSettings()
	return &command.Command{
		Name:    "replay",
		Summary: "Say what limits would have done, from an access log: who would have been denied, since when, and which limit would do. It asks no service.",
		Args:    "FILE ...",
		Examples: `Examples:
  ratelimitd replay --config new.yaml access.log access.log.1.gz
      The limits of the only policy, for each client address.
  ratelimitd replay --config new.yaml --current old.yaml --html report.html access.log
      Who gains and who loses.
  zcat *.gz | ratelimitd replay --config new.yaml --suggest p=0.1% -
      The smallest limits that deny at most one request in 1000.
  ratelimitd replay --config new.yaml --identifier 'key:{key}' --field key=auth.api_key --field time=when app.json
  ratelimitd replay --envoy-config-dir new/ --mapping routes.yaml envoy.log
      Envoy's limits, for descriptors that the file says how to make.

FILE is a log, which may be of gzip or zstd; - is standard input. Several are merged
by their times.`,
		Flags: s.set,
		Run:   s.run,
	}
}

func (s *settings) run(ctx context.Context, call command.Call) error {
	r, err := s.prepare(call)
	if err != nil {
		return err
	}
	defer r.close()
	if err := follow(ctx, r, call.Stderr); err != nil {
		return err
	}
	report := newReport(r)
	for _, f := range report.Files {
		if f.Format == "" {
			fmt.Fprintf(call.Stderr, "%s: has no lines\n", f.Name)
			continue
		}
		fmt.Fprintf(call.Stderr, "%s: read as %s\n", f.Name, strings.Trim(fmt.Sprintf("%s, %s", accesslog.Format(f.Format), f.Packed), ", "))
	}
	if s.json {
		e := json.NewEncoder(call.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			return err
		}
	} else {
		report.print(call.Stdout)
	}
	if s.html == "" {
		return nil
	}
	var page bytes.Buffer
	if err := report.printHTML(&page); err != nil {
		return err
	}
	if err := os.WriteFile(s.html, page.Bytes(), 0o600); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}

// follow does r, with its progress where people see it.
func follow(ctx context.Context, r *run, out io.Writer) error {
	done, shown := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(shown)
		if isTerminal(out) {
			r.progress(out, done)
		}
	}()
	err := r.do(ctx)
	close(done)
	<-shown
	return err
}

// prepare returns the run that the flags and the file of --mapping say. Close it.
func (s *settings) prepare(call command.Call) (_ *run, err error) {
	wrong := s.set.Apply(call.Line)
	if s.mapping != "" && wrong == nil {
		known := make([]*flags.Flag, len(ofRecords))
		for i, name := range ofRecords {
			known[i] = s.set.Lookup(name)
		}
		if s.file, err = mapping.ReadFile(s.mapping, known); err != nil {
			return nil, fmt.Errorf("--mapping: %w", err)
		}
		wrong = s.set.Apply(call.Line, s.file.Flags)
	}
	r := &run{names: call.Args, stdin: os.Stdin, now: time.Now(), lines: s.lines, lanes: runtime.GOMAXPROCS(0)}
	if err := errors.Join(append(append(wrong, s.check(r)...), s.file.Err())...); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	logger := slog.New(slog.NewTextHandler(call.Stderr, nil))
	for i, of := range []origin{{"config", s.config, "envoy-config-dir", s.envoyDir}, {"current", s.current, "current-envoy-config-dir", s.currentEnvoyDir}} {
		if of.file == "" && of.dir == "" {
			continue
		}
		replica, err := s.open(of, i, logger)
		if err != nil {
			return nil, err
		}
		r.replicas = append(r.replicas, replica)
	}
	if r.mapping, err = s.newMapping(); err != nil {
		return nil, err
	}
	return r, s.file.Err()
}

func (r *run) close() {
	for _, p := range r.replicas {
		p.close()
	}
}

// An origin is where a configuration is: a file and a directory, and the flags that name them.
type origin struct{ fileFlag, file, dirFlag, dir string }

func (c origin) name() string { return cmp.Or(c.file, c.dir) }

// open returns the replica of a configuration.
func (s *settings) open(of origin, index int, logger *slog.Logger) (*replica, error) {
	line := flags.Source{}
	if of.file != "" {
		line["config"] = flags.Setting{Text: of.file, Name: "--" + of.fileFlag}
	}
	if of.dir != "" {
		line["envoy-config-dir"] = flags.Setting{Text: of.dir, Name: "--" + of.dirFlag}
	}
	c, p, err := config.Read(line, noVariables)
	if err != nil {
		return nil, err
	}
	if index == 0 {
		if err := s.choose(of.name(), p); err != nil {
			return nil, err
		}
	}
	return newReplica(index, replicaOptions{p, c.MemoryOptions(), c.Store.OnError, envoyapi.SettingsOf(&c.Envoy), logger})
}

// noVariables is an environment without variables: what this machine's daemon is told is not
// what the files say.
func noVariables(string) (string, bool) { return "", false }

// check reads the flags that do not depend on the configuration.
func (s *settings) check(r *run) []error {
	var wrong []error
	problem := func(flag, format string, args ...any) {
		wrong = append(wrong, s.set.Problem(flag, fmt.Sprintf(format, args...)))
	}
	if s.config == "" && s.envoyDir == "" {
		wrong = append(wrong, errors.New("--config is missing; write --config=FILE, or --envoy-config-dir=DIR for Envoy's limits"))
	}
	if s.format != "auto" {
		r.format = accesslog.Format(s.format)
	}
	if s.goal != "" {
		var err error
		if r.goal, err = parseGoal(s.goal); err != nil {
			problem("suggest", "%s", err)
		}
	}
	if s.lines < 1 {
		problem("lines", " %d: must be above 0, such as 10", s.lines)
	}
	if s.identifiers < 1 {
		problem("max-identifiers", " %d: must be above 0, such as %d", s.identifiers, defaultIdentifiers)
	}
	if folder := filepath.Dir(s.html); s.html != "" {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			problem("html", " %s: there is no folder %s", quote.Cut(s.html), quote.Cut(folder))
		}
	}
	r.who = newSubjects(s.identifiers)
	if _, err := time.LoadLocation(s.zone); err != nil {
		problem("time-zone", " %s: write a zone such as Europe/Berlin", quote.Cut(s.zone))
	}
	if s.isOfEnvoy() {
		for _, flag := range []string{"namespace", "policy", "identifier"} {
			if _, set := s.set.Setting(flag); set {
				problem(flag, ": descriptors have none; leave it out, or leave out what makes descriptors")
			}
		}
	}
	stdins := 0
	for _, name := range r.names {
		if name == stdinName {
			stdins++
		}
	}
	if stdins > 1 {
		wrong = append(wrong, errors.New("-: standard input can be read once; leave one of them out"))
	}
	return wrong
}

// isOfEnvoy reports whether records make descriptors.
func (s *settings) isOfEnvoy() bool {
	return s.domain != "" || s.descriptors != nil || s.file.HasDescriptors()
}

// choose chooses the domain, or the namespace and the policy, where the configuration has but
// one, and checks those that are named.
func (s *settings) choose(name string, p *config.Policies) error {
	if s.isOfEnvoy() {
		if s.descriptors == nil && !s.file.HasDescriptors() {
			return fmt.Errorf("--descriptor is missing; write one, such as --descriptor=remote_address={%s}, or a file of --mapping with rate_limits", accesslog.ClientAddress)
		}
		return s.chooseOne("domain", &s.domain, name, p.Domains.Domains())
	}
	if p.Namespaces == nil && p.Domains != nil {
		return fmt.Errorf("%s has limits of Envoy alone: say which descriptors a record makes, such as --descriptor=remote_address={%s}, or with a file of --mapping", name, accesslog.ClientAddress)
	}
	c := p.Namespaces
	if err := s.chooseOne("namespace", &s.namespace, name, slices.Sorted(maps.Keys(c.Namespaces()))); err != nil {
		return err
	}
	if strings.Contains(s.namespace, "{") {
		if s.policy == "" {
			return errors.New("--policy is missing; write --policy=default")
		}
		return nil
	}
	return s.chooseOne("policy", &s.policy, name, slices.Sorted(maps.Keys(c.Namespace(s.namespace).Policies())))
}

func (s *settings) chooseOne(flag string, to *string, name string, known []string) error {
	switch {
	case strings.Contains(*to, "{") && flag != "domain" || slices.Contains(known, *to):
		return nil
	case len(known) == 0:
		return fmt.Errorf("%s has no %s that could be asked", name, flag)
	case *to == "" && len(known) == 1:
		*to = known[0]
		return nil
	case *to == "":
		return fmt.Errorf("--%s is missing: %s has %s; write --%s=%s", flag, name, strings.Join(known[:min(10, len(known))], ", "), flag, known[0])
	}
	return s.set.Problem(flag, fmt.Sprintf(" %s: %s has %s", quote.Cut(*to), name, strings.Join(known[:min(10, len(known))], ", ")))
}

// newMapping returns what records ask.
func (s *settings) newMapping() (*mapping.Mapping, error) {
	zone, err := time.LoadLocation(s.zone)
	if err != nil {
		return nil, err
	}
	return mapping.New(mapping.Options{
		Namespace: s.namespace, Policy: s.policy, Identifier: s.identifier,
		Domain: s.domain, Descriptors: s.descriptors, File: s.file,
		Cost: s.cost, Fields: s.fields, Zone: zone, Problem: s.set.Problem,
	})
}
