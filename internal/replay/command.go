package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// defaultIdentifiers are as many as the memory store has counters by default.
const defaultIdentifiers = 1_000_000

// settings are what the flags say.
type settings struct {
	config, current               string
	format                        string
	namespace, policy, identifier string
	cost                          string
	fields                        []string
	zone                          string
	goal                          string
	lines, identifiers            int
	json                          bool
	html                          string

	set *flags.Set
}

// Command returns the command that says what limits would have done.
func Command() *command.Command {
	s := &settings{policy: "", identifier: accesslog.ClientAddress, cost: "1", zone: "UTC", format: "auto", lines: 10, identifiers: defaultIdentifiers}
	formats := []string{"auto"}
	for _, f := range accesslog.Formats {
		formats = append(formats, string(f))
	}
	s.set = &flags.Set{Flags: []flags.Flag{
		{Name: "config", Value: flags.Path(&s.config), Hint: "FILE", Required: true, Help: "The configuration to try, as of \"ratelimitd serve\"."},
		{Name: "current", Value: flags.Path(&s.current), Hint: "FILE", Help: "The configuration to compare it with."},
		{Name: "format", Value: flags.OneOf(&s.format, formats...), Help: "How the logs are written: " + strings.Join(formats, ", ") + "; auto finds out."},
		{Name: "namespace", Value: flags.Text(&s.namespace), Hint: "NAME", Help: "The namespace that is asked. A {field} is replaced by what the record has. Not needed if the configuration has one namespace."},
		{Name: "policy", Value: flags.Text(&s.policy), Hint: "NAME", Help: "The policy that is asked; likewise."},
		{Name: "identifier", Value: flags.Text(&s.identifier), Hint: "FIELD", Help: "Who is limited: a field, such as client_address or user, or a text with fields, such as user:{user}."},
		{Name: "cost", Value: flags.Text(&s.cost), Hint: "N", Help: "What a record costs: a number, or a field in braces, such as {bytes_sent}."},
		{Name: "field", Value: flags.Lines(&s.fields), Hint: "NAME=PLACE", Help: "In JSON and CSV: where a field is, such as time=when or user=auth.sub. Repeat it for several."},
		{Name: "time-zone", Value: flags.Text(&s.zone), Hint: "ZONE", Help: "The zone of times that do not say theirs."},
		{Name: "suggest", Value: flags.Text(&s.goal), Hint: "GOAL", Help: "Also find the smallest limits that deny at most p=0.1% of requests, or identifiers=10."},
		{Name: "lines", Short: "n", Value: flags.Number(&s.lines), Help: "The most lines of each list."},
		{Name: "max-identifiers", Value: flags.Number(&s.identifiers), Help: "How many identifiers are told apart in the report. Each takes a few hundred bytes of memory."},
		{Name: "json", Value: flags.Bool(&s.json), Help: "Print the report as JSON."},
		{Name: "html", Value: flags.Path(&s.html), Hint: "FILE", Help: "Also write the report with plots to this file. It needs nothing else."},
	}}
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

FILE is a log, which may be of gzip or zstd; - is standard input. Several are merged
by their times.`,
		Flags: s.set,
		Run:   s.run,
	}
}

func (s *settings) run(ctx context.Context, call command.Call) error {
	wrong := s.set.Apply(call.Line)
	r := &run{names: call.Args, stdin: os.Stdin, now: time.Now(), lines: s.lines}
	wrong = append(wrong, s.check(r)...)
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(call.Stderr, nil))
	for i, flag := range []string{"config", "current"} {
		file := []string{s.config, s.current}[i]
		if file == "" {
			continue
		}
		replica, err := s.open(flag, file, i, logger)
		if err != nil {
			return err
		}
		defer replica.close()
		r.replicas = append(r.replicas, replica)
	}
	var err error
	if r.mapping, err = s.mapping(); err != nil {
		return err
	}
	done, shown := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(shown)
		if isTerminal(call.Stderr) {
			r.progress(call.Stderr, done)
		}
	}()
	report, err := r.do(ctx)
	close(done)
	<-shown
	if err != nil {
		return err
	}
	for _, f := range report.Files {
		if f.Format == "" {
			fmt.Fprintf(call.Stderr, "%s: has no lines\n", f.Name)
			continue
		}
		fmt.Fprintf(call.Stderr, "%s: read as %s\n", f.Name, strings.Trim(fmt.Sprintf("%s, %s", accesslog.Format(f.Format), f.Packed), ", "))
	}
	if s.html != "" {
		var page bytes.Buffer
		if err := report.printHTML(&page); err != nil {
			return err
		}
		if err := os.WriteFile(s.html, page.Bytes(), 0o600); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	if s.json {
		e := json.NewEncoder(call.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	report.print(call.Stdout)
	return nil
}

// open returns the replica of a configuration, which is the file of a flag.
func (s *settings) open(flag, file string, index int, logger *slog.Logger) (*replica, error) {
	c, p, err := config.Read(flags.Source{"config": {Text: file, Name: "--" + flag}}, noVariables)
	if err != nil {
		return nil, err
	}
	if index == 0 {
		if err := s.choose(p.Namespaces); err != nil {
			return nil, err
		}
	}
	return newReplica(index, p, c.MemoryOptions(), c.Store.OnError, logger)
}

// noVariables is an environment without variables: what this machine's daemon is told is not
// what the files say.
func noVariables(string) (string, bool) { return "", false }

// check reads the flags that do not depend on the configuration.
func (s *settings) check(r *run) []error {
	var wrong []error
	if s.format != "auto" {
		r.format = accesslog.Format(s.format)
	}
	if s.goal != "" {
		var err error
		if r.goal, err = parseGoal(s.goal); err != nil {
			wrong = append(wrong, s.set.Problem("suggest", err.Error()))
		}
	}
	if s.lines < 1 {
		wrong = append(wrong, s.set.Problem("lines", fmt.Sprintf(" %d: must be above 0, such as 10", s.lines)))
	}
	if s.identifiers < 1 {
		wrong = append(wrong, s.set.Problem("max-identifiers", fmt.Sprintf(" %d: must be above 0, such as %d", s.identifiers, defaultIdentifiers)))
	}
	r.who = subjects{byKey: map[string]*subject{}, most: s.identifiers}
	if _, err := time.LoadLocation(s.zone); err != nil {
		wrong = append(wrong, s.set.Problem("time-zone", fmt.Sprintf(" %s: write a zone such as Europe/Berlin", quote.Cut(s.zone))))
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

// choose chooses the namespace and the policy where the configuration has but one, and checks
// those that are named.
func (s *settings) choose(c *policy.Config) error {
	names := slices.Sorted(maps.Keys(c.Namespaces()))
	if err := s.chooseOne("namespace", &s.namespace, names); err != nil {
		return err
	}
	if strings.Contains(s.namespace, "{") {
		if s.policy == "" {
			return errors.New("--policy is missing; write --policy=default")
		}
		return nil
	}
	return s.chooseOne("policy", &s.policy, slices.Sorted(maps.Keys(c.Namespace(s.namespace).Policies())))
}

func (s *settings) chooseOne(flag string, to *string, known []string) error {
	switch {
	case strings.Contains(*to, "{") || slices.Contains(known, *to):
		return nil
	case len(known) == 0:
		return fmt.Errorf("%s has no %s that could be asked", s.config, flag)
	case *to == "" && len(known) == 1:
		*to = known[0]
		return nil
	case *to == "":
		return fmt.Errorf("--%s is missing: %s has %s; write --%s=%s", flag, s.config, strings.Join(known[:min(10, len(known))], ", "), flag, known[0])
	}
	return s.set.Problem(flag, fmt.Sprintf(" %s: %s has %s", quote.Cut(*to), s.config, strings.Join(known[:min(10, len(known))], ", ")))
}

// mapping returns what records ask.
func (s *settings) mapping() (*mapping, error) {
	zone, err := time.LoadLocation(s.zone)
	if err != nil {
		return nil, err
	}
	m := &mapping{costSlot: -1, reader: accesslog.Options{Zone: zone, Names: map[string]string{}}}
	identifier := s.identifier
	if !strings.Contains(identifier, "{") {
		identifier = "{" + identifier + "}"
	}
	for _, t := range []struct {
		flag, text string
		to         *template
	}{{"namespace", s.namespace, &m.namespace}, {"policy", s.policy, &m.policy}, {"identifier", identifier, &m.identifier}} {
		if *t.to, err = newTemplate(t.text, &m.fields); err != nil {
			return nil, s.set.Problem(t.flag, err.Error())
		}
	}
	if field, braced := strings.CutPrefix(s.cost, "{"); braced && strings.HasSuffix(field, "}") {
		m.costSlot = slotOf(strings.TrimSuffix(field, "}"), &m.fields)
	} else if m.cost, err = strconv.ParseUint(s.cost, 10, 64); err != nil {
		return nil, s.set.Problem("cost", fmt.Sprintf(" %s: write a whole number, or a field such as {bytes_sent}", quote.Cut(s.cost)))
	}
	for _, line := range s.fields {
		name, place, ok := strings.Cut(line, "=")
		if !ok || name == "" || place == "" {
			return nil, s.set.Problem("field", fmt.Sprintf(" %s: write NAME=PLACE, such as time=when", quote.Cut(line)))
		}
		m.reader.Names[name] = place
	}
	return m, nil
}
