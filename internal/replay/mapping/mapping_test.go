package mapping

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// newMapping returns the mapping of a file, and what is wrong with it.
func newMapping(t *testing.T, text string) (*Mapping, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Domain: "edge", Identifier: accesslog.ClientAddress, Cost: "1"}
	set := &flags.Set{Flags: []flags.Flag{
		{Name: "cost", Value: flags.Text(&o.Cost)}, {Name: "field", Value: flags.Lines(&o.Fields)}, {Name: "descriptor", Value: flags.Lines(&o.Descriptors)},
	}}
	var err error
	if o.File, err = ReadFile(name, []*flags.Flag{&set.Flags[0], &set.Flags[1], &set.Flags[2]}); err != nil {
		t.Fatal(err)
	}
	set.Apply(o.File.Flags)
	o.Problem = set.Problem
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.File.Err(); err != nil {
		return nil, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), name, "m.yaml"))
	}
	return m, nil
}

// asked returns the descriptors that a record with the values makes, each as key=value,...
func asked(t *testing.T, m *Mapping, values map[string]string) string {
	t.Helper()
	r := &accesslog.Record{}
	for _, field := range m.Reader.Fields {
		r.Values = append(r.Values, []byte(values[field]))
	}
	var a Asks
	if problem := m.Append(&a, r); problem != "" {
		return problem
	}
	var all []string
	for i := range a.All {
		n := NameOf(string(a.Key(i)))
		var entries []string
		for _, e := range n.Entries {
			entries = append(entries, e.Key+"="+e.Value)
		}
		all = append(all, strings.Join(entries, ","))
		if n.Namespace != "edge" || !n.IsDescriptor || a.All[i].More != (i < len(a.All)-1) {
			t.Errorf("%+v of %+v", n, a.All[i])
		}
	}
	return strings.Join(all, " ")
}

// TestActions makes the descriptors that Envoy makes of the same actions.
func TestActions(t *testing.T) {
	alice := map[string]string{accesslog.ClientAddress: "192.0.2.7", "x-user": "alice", "path": "/v1/items", "url": "/v1/items?q=1", "method": "POST"}
	nobody := map[string]string{accesslog.ClientAddress: "2001:db8:1:2::9", "path": "/V1/login", "url": "/V1/login", "method": "GET"}
	for _, c := range []struct{ actions, alice, nobody string }{
		{"remote_address: {}", "remote_address=192.0.2.7", "remote_address=2001:db8:1:2::9"},
		{"masked_remote_address: {v4_prefix_mask_len: 24, v6_prefix_mask_len: 48}", "masked_remote_address=192.0.2.0/24", "masked_remote_address=2001:db8:1::/48"},
		{"masked_remote_address: {}", "masked_remote_address=192.0.2.7/32", "masked_remote_address=2001:db8:1:2::9/128"},
		{"generic_key: {descriptor_value: all}", "generic_key=all", "generic_key=all"},
		{"request_headers: {header_name: X-User, descriptor_key: user}", "user=alice", ""},
		{"request_headers: {header_name: x-user, descriptor_key: user}}, {generic_key: {descriptor_value: all}", "user=alice,generic_key=all", ""},
		{"request_headers: {header_name: x-user, descriptor_key: user, skip_if_absent: true}}, {generic_key: {descriptor_value: all}", "user=alice,generic_key=all", "generic_key=all"},
		{`request_headers: {header_name: ":path", descriptor_key: path}`, "path=/v1/items?q=1", "path=/V1/login"},
		{"header_value_match: {descriptor_value: yes, headers: [{name: x-user}]}", "header_match=yes", ""},
		{"header_value_match: {descriptor_value: yes, expect_match: false, headers: [{name: x-user}]}", "", "header_match=yes"},
		{"header_value_match: {descriptor_value: yes, headers: [{name: x-user, present_match: false}]}", "", "header_match=yes"},
		{"header_value_match: {descriptor_value: yes, headers: [{name: x-user, invert_match: true}]}", "", "header_match=yes"},
		{"header_value_match: {descriptor_value: yes, headers: [{name: x-user, string_match: {exact: bob}, invert_match: true}]}", "header_match=yes", ""},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":method", string_match: {exact: post, ignore_case: true}}]}`, "header_match=yes", ""},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":path", string_match: {prefix: /v1/}}]}`, "header_match=yes", ""},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":path", suffix_match: login}]}`, "", "header_match=yes"},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":path", contains_match: items}]}`, "header_match=yes", ""},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":path", safe_regex_match: {regex: "/[^/]*/login"}}]}`, "", "header_match=yes"},
		{`header_value_match: {descriptor_value: yes, headers: [{name: ":path", string_match: {safe_regex: {regex: "login"}}}]}`, "", ""},
	} {
		m, err := newMapping(t, "rate_limits: [{actions: [{"+c.actions+"}]}]\n")
		if err != nil {
			t.Error(err)
			continue
		}
		if a, b := asked(t, m, alice), asked(t, m, nobody); a != c.alice || b != c.nobody {
			t.Errorf("%s: %q and %q, want %q and %q", c.actions, a, b, c.alice, c.nobody)
		}
	}
}

// TestRoutes has the first route that matches say which descriptors there are.
func TestRoutes(t *testing.T) {
	m, err := newMapping(t, `
descriptor: ["user={x-user},all=yes"]
rate_limits: [{actions: [{generic_key: {descriptor_value: host}}]}]
routes:
  - match: {path: /login}
    rate_limits: [{actions: [{generic_key: {descriptor_value: login}}]}]
  - match: {prefix: /LOGIN, case_sensitive: false, headers: [{name: x-user}]}
    vh_rate_limits: INCLUDE
    rate_limits: [{actions: [{generic_key: {descriptor_value: any}}]}]
  - match: {path_separated_prefix: /api}
    vh_rate_limits: IGNORE
  - match: {safe_regex: {regex: "/v[0-9]+/.*"}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/login": "generic_key=login", "/login/x": "generic_key=any generic_key=host user=alice,all=yes", "/api": "", "/api/x": "", "/apis": "generic_key=host user=alice,all=yes",
		"/v1/x": "generic_key=host user=alice,all=yes", "/": "generic_key=host user=alice,all=yes",
	} {
		if got := asked(t, m, map[string]string{"path": path, "x-user": "alice"}); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := asked(t, m, map[string]string{"path": "/login/x"}); got != "generic_key=host" {
		t.Errorf("without a user: %q", got)
	}
	if got := asked(t, m, map[string]string{"path": "/", "x-user": strings.Repeat("x", 9000)}); got != "a descriptor that is too long" {
		t.Errorf("%.100q", got)
	}
}

// TestFileErrors says what is wrong with a file at its line.
func TestFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"routs: []":                   `m.yaml:1:1: unknown key "routs"`,
		"cost: many":                  `m.yaml:1:7: cost "many": write a whole number`,
		"\nfield: time":               `m.yaml:2:8: field "time": write NAME=PLACE`,
		"descriptor: [user]":          `m.yaml:1:13: descriptor "user": write key=value`,
		"routes: [{rate_limits: []}]": `m.yaml:1:10: a route needs a match`,
		"routes:\n  - match: {}":      `m.yaml:2:12: a match needs one of path, prefix`,
		"routes:\n  - match: {safe_regex: {regex: \"(\"}}":    `m.yaml:2:33: "(" is no regular expression of RE2`,
		"routes: [{match: {prefix: /}, vh_rate_limits: ALL}]": `m.yaml:1:47: vh_rate_limits "ALL" is not known`,
		"rate_limits: [{}]": `m.yaml:1:15: a rate limit needs actions`,
		"rate_limits: [{stage: 1, actions: [{remote_address: {}}]}]":                                                      `m.yaml:1:23: only the rate limits of stage 0`,
		"rate_limits: [{actions: [{}]}]":                                                                                  `m.yaml:1:26: an action is one of remote_address`,
		"rate_limits: [{actions: [{destination_cluster: {}}]}]":                                                           `unknown key "destination_cluster"`,
		"rate_limits: [{actions: [{remote_address: {a: 1}}]}]":                                                            `unknown key "a"`,
		"rate_limits: [{actions: [{request_headers: {header_name: a}}]}]":                                                 `request_headers needs header_name and descriptor_key`,
		"rate_limits: [{actions: [{generic_key: {}}]}]":                                                                   `generic_key needs a descriptor_value`,
		"rate_limits: [{actions: [{header_value_match: {descriptor_value: a}}]}]":                                         `header_value_match needs descriptor_value and headers`,
		"rate_limits: [{actions: [{header_value_match: {descriptor_value: a, headers: [{}]}}]}]":                          `a header needs a name`,
		"rate_limits: [{actions: [{masked_remote_address: {v4_prefix_mask_len: 33}}]}]":                                   `"33" is over 32`,
		"rate_limits: [{actions: [{header_value_match: {descriptor_value: a, headers: [{name: a, string_match: {}}]}}]}]": `a string_match needs one of exact`,
	} {
		if _, err := newMapping(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
