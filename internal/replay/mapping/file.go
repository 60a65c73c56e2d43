package mapping

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

const (
	// maxFileBytes is how long a file may be.
	maxFileBytes = 1 << 20
	// maxRegexBytes is how long a regular expression may be.
	maxRegexBytes = 4096
)

// A File is a mapping as people write it: the flags of the command under their names with _
// for -, and for Envoy the routes and rate_limits of a virtual host.
type File struct {
	Flags flags.Source

	yaml           *yamlfile.File
	routes, limits yamlfile.Node
}

// ReadFile reads a file. known are the flags that it may set. What is wrong with it Err
// returns in the end.
func ReadFile(name string, known []*flags.Flag) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes", name, maxFileBytes)
	}
	m := &File{Flags: flags.Source{}}
	var root yamlfile.Node
	m.yaml, root = yamlfile.Parse(name, data)
	keys := map[string]func(yamlfile.Node){
		"routes":      func(n yamlfile.Node) { m.routes = n },
		"rate_limits": func(n yamlfile.Node) { m.limits = n },
	}
	for _, flag := range known {
		key := strings.ReplaceAll(flag.Name, "-", "_")
		keys[key] = func(n yamlfile.Node) {
			s := flags.Setting{Name: key, Note: func(problem string) { n.Problem("%s", problem) }}
			if flag.IsList() {
				s.Text = strings.Join(n.Texts(), flag.Separator())
			} else {
				s.Text = n.Text()
			}
			m.Flags[flag.Name] = s
		}
	}
	root.Mapping(keys)
	return m, nil
}

// Err returns what is wrong with the file.
func (f *File) Err() error {
	if f == nil {
		return nil
	}
	return f.yaml.Err()
}

// HasDescriptors reports whether the file says which descriptors there are.
func (f *File) HasDescriptors() bool { return f != nil && (f.routes.Given() || f.limits.Given()) }

// virtualHost adds what the file has to h. fields are those that are wanted so far, to which
// it adds.
func (f *File) virtualHost(h *virtualHost, fields *[]string) {
	r := &reader{fields}
	h.limits = r.rateLimits(f.limits)
	f.routes.Items(func(n yamlfile.Node) { h.routes = append(h.routes, r.route(n)) })
	if slices.ContainsFunc(h.routes, func(r route) bool { return r.path.kind != anyText }) {
		h.path = slotOf(accesslog.Path, fields)
	}
}

type reader struct{ fields *[]string }

func (r *reader) route(n yamlfile.Node) route {
	var to route
	shared := "OVERRIDE"
	var match yamlfile.Node
	n.Mapping(map[string]func(yamlfile.Node){
		"match":       func(v yamlfile.Node) { match = v },
		"rate_limits": func(v yamlfile.Node) { to.limits = r.rateLimits(v) },
		"vh_rate_limits": func(v yamlfile.Node) {
			if shared = v.Text(); !slices.Contains([]string{"OVERRIDE", "INCLUDE", "IGNORE"}, shared) {
				v.Problem("vh_rate_limits %s is not known; use OVERRIDE, INCLUDE or IGNORE", quote.Cut(shared))
			}
		},
	})
	if match.IsNull() {
		n.Problem(`a route needs a match, as in "match: {prefix: /login}"; this one has none`)
		return to
	}
	folded := false
	match.Mapping(map[string]func(yamlfile.Node){
		"path":                  func(v yamlfile.Node) { to.path = textOf(v, exact) },
		"prefix":                func(v yamlfile.Node) { to.path = textOf(v, prefix) },
		"path_separated_prefix": func(v yamlfile.Node) { to.path = textOf(v, pathPrefix) },
		"safe_regex":            func(v yamlfile.Node) { to.path = regexOf(v) },
		"case_sensitive":        func(v yamlfile.Node) { folded = !v.Bool() },
		"headers":               func(v yamlfile.Node) { to.headers = r.headers(v) },
	})
	if to.path.kind == anyText {
		match.Problem(`a match needs one of path, prefix, path_separated_prefix and safe_regex; this one has none. "prefix: /" matches all`)
	}
	to.path.folded = folded
	to.host = shared == "INCLUDE" || shared == "OVERRIDE" && len(to.limits) == 0
	return to
}

func textOf(v yamlfile.Node, kind textKind) text {
	t := text{kind: kind, want: []byte(v.Text())}
	if len(t.want) == 0 {
		v.Problem("an empty text; write what is wanted, such as /login")
	}
	return t
}

func regexOf(n yamlfile.Node) text {
	t := text{kind: regex}
	var expression yamlfile.Node
	n.Mapping(map[string]func(yamlfile.Node){
		"google_re2": func(yamlfile.Node) {}, // which older configurations have
		"regex":      func(v yamlfile.Node) { expression = v },
	})
	if expression.IsNull() {
		n.Problem(`a safe_regex needs a regex, as in {regex: "/v[0-9]+/.*"}; this one has none`)
		return t
	}
	written := expression.Text()
	if len(written) > maxRegexBytes {
		expression.Problem("a regular expression of %d bytes; write it in at most %d", len(written), maxRegexBytes)
		return t
	}
	_, err := regexp.Compile(written) // whose error is of what was written
	if err == nil {
		t.regex, err = regexp.Compile("^(?:" + written + ")$")
	}
	if err != nil {
		expression.Problem("%s is no regular expression of RE2: %v", quote.Cut(written), quote.Error(err))
	}
	return t
}

func (r *reader) rateLimits(n yamlfile.Node) []rateLimit {
	var limits []rateLimit
	n.Items(func(item yamlfile.Node) {
		var l rateLimit
		item.Mapping(map[string]func(yamlfile.Node){
			"actions": func(v yamlfile.Node) { v.Items(func(a yamlfile.Node) { l = append(l, r.action(a)) }) },
			"stage": func(v yamlfile.Node) {
				if v.Uint(10) != 0 {
					v.Problem("only the rate limits of stage 0 can be replayed; leave the others out")
				}
			},
		})
		if len(l) == 0 {
			item.Problem(`a rate limit needs actions, as in "actions: [{remote_address: {}}]"; this one has none`)
		}
		limits = append(limits, l)
	})
	return limits
}

// action reads one action: a mapping with one key.
func (r *reader) action(n yamlfile.Node) action {
	var a action
	kinds := 0
	of := func(read func(*action, yamlfile.Node)) func(yamlfile.Node) {
		return func(v yamlfile.Node) { kinds++; read(&a, v) }
	}
	n.Mapping(map[string]func(yamlfile.Node){
		"remote_address":        of(r.remoteAddress),
		"masked_remote_address": of(r.maskedAddress),
		"request_headers":       of(r.requestHeaders),
		"generic_key":           of(r.genericKey),
		"header_value_match":    of(r.headerValueMatch),
	})
	if kinds != 1 {
		n.Problem("an action is one of remote_address, masked_remote_address, request_headers, generic_key and header_value_match; this one has %d of them", kinds)
	}
	return a
}

// field has a take the value of a field.
func (r *reader) field(a *action, name string) {
	a.value = template{{name, nil, slotOf(name, r.fields)}}
}

func (r *reader) remoteAddress(a *action, n yamlfile.Node) {
	n.Mapping(nil)
	a.key = "remote_address"
	r.field(a, accesslog.ClientAddress)
}

func (r *reader) maskedAddress(a *action, n yamlfile.Node) {
	masks := [2]int{32, 128}
	n.Mapping(map[string]func(yamlfile.Node){
		"v4_prefix_mask_len": func(v yamlfile.Node) { masks[0] = int(v.Uint(32)) },  //nolint:gosec // it is small
		"v6_prefix_mask_len": func(v yamlfile.Node) { masks[1] = int(v.Uint(128)) }, //nolint:gosec // it is small
	})
	a.key, a.masks = "masked_remote_address", &masks
	r.field(a, accesslog.ClientAddress)
}

func (r *reader) requestHeaders(a *action, n yamlfile.Node) {
	header := ""
	n.Mapping(map[string]func(yamlfile.Node){
		"header_name":    func(v yamlfile.Node) { header = v.Text() },
		"descriptor_key": func(v yamlfile.Node) { a.key = v.Text() },
		"skip_if_absent": func(v yamlfile.Node) { a.optional = v.Bool() },
	})
	if header == "" || a.key == "" {
		n.Problem("request_headers needs header_name and descriptor_key, as in {header_name: x-api-key, descriptor_key: api_key}")
		return
	}
	r.field(a, fieldOf(header))
}

// fixed has a take the value of a node.
func fixed(a *action, v yamlfile.Node) {
	a.value = template{{v.Text(), []byte(v.Text()), -1}}
}

func (r *reader) genericKey(a *action, n yamlfile.Node) {
	a.key = "generic_key"
	n.Mapping(map[string]func(yamlfile.Node){
		"descriptor_key":   func(v yamlfile.Node) { a.key = v.Text() },
		"descriptor_value": func(v yamlfile.Node) { fixed(a, v) },
	})
	if len(a.value) == 0 || a.value[0].text == "" {
		n.Problem("generic_key needs a descriptor_value, as in {descriptor_key: path, descriptor_value: /login}")
	}
}

func (r *reader) headerValueMatch(a *action, n yamlfile.Node) {
	a.key = "header_match"
	n.Mapping(map[string]func(yamlfile.Node){
		"descriptor_key":   func(v yamlfile.Node) { a.key = v.Text() },
		"descriptor_value": func(v yamlfile.Node) { fixed(a, v) },
		"expect_match":     func(v yamlfile.Node) { a.unless = !v.Bool() },
		"headers":          func(v yamlfile.Node) { a.headers = r.headers(v) },
	})
	if len(a.value) == 0 || a.value[0].text == "" || len(a.headers) == 0 {
		n.Problem(`header_value_match needs descriptor_value and headers, as in {descriptor_value: search, headers: [{name: ":path", string_match: {prefix: /search}}]}`)
	}
}

func (r *reader) headers(n yamlfile.Node) []headerMatch {
	var list []headerMatch
	n.Items(func(item yamlfile.Node) { list = append(list, r.header(item)) })
	return list
}

func (r *reader) header(n yamlfile.Node) headerMatch {
	m := headerMatch{slot: -1}
	value := func(kind textKind) func(yamlfile.Node) {
		return func(v yamlfile.Node) { t := textOf(v, kind); m.value = &t }
	}
	n.Mapping(map[string]func(yamlfile.Node){
		"name": func(v yamlfile.Node) {
			if v.Text() != "" {
				m.slot = slotOf(fieldOf(v.Text()), r.fields)
			}
		},
		"string_match":     func(v yamlfile.Node) { t := stringMatch(v); m.value = &t },
		"exact_match":      value(exact),
		"prefix_match":     value(prefix),
		"suffix_match":     value(suffix),
		"contains_match":   value(contains),
		"safe_regex_match": func(v yamlfile.Node) { t := regexOf(v); m.value = &t },
		"present_match":    func(v yamlfile.Node) { m.absent = !v.Bool() },
		"invert_match":     func(v yamlfile.Node) { m.inverse = v.Bool() },
	})
	if m.slot < 0 {
		n.Problem(`a header needs a name, as in {name: ":method", string_match: {exact: POST}}; this one has none`)
		m.slot = 0
	}
	return m
}

func stringMatch(n yamlfile.Node) text {
	var t text
	folded := false
	n.Mapping(map[string]func(yamlfile.Node){
		"exact":       func(v yamlfile.Node) { t = textOf(v, exact) },
		"prefix":      func(v yamlfile.Node) { t = textOf(v, prefix) },
		"suffix":      func(v yamlfile.Node) { t = textOf(v, suffix) },
		"contains":    func(v yamlfile.Node) { t = textOf(v, contains) },
		"safe_regex":  func(v yamlfile.Node) { t = regexOf(v) },
		"ignore_case": func(v yamlfile.Node) { folded = v.Bool() },
	})
	if t.kind == anyText {
		n.Problem("a string_match needs one of exact, prefix, suffix, contains and safe_regex; this one has none")
	}
	t.folded = folded
	return t
}
