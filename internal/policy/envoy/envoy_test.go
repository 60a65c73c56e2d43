package envoy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// read reads files called 0.yaml, 1.yaml and so on.
func read(merge bool, files ...string) (*envoy.Reader, error) {
	r := envoy.NewReader(envoy.Options{Merge: merge, MaxLogCount: 1000})
	var all []error
	for i, data := range files {
		name := fmt.Sprintf("%d.yaml", i)
		f, root := yamlfile.Parse(name, []byte(data))
		r.Read(name, root)
		all = append(all, f.Err())
	}
	return r, errors.Join(all...)
}

func mustRead(tb testing.TB, files ...string) *envoy.Config {
	tb.Helper()
	r, err := read(false, files...)
	if err != nil {
		tb.Fatal(err)
	}
	return r.Config
}

// entries reads "key=value,key=value".
func entries(text string) []envoy.Entry {
	var all []envoy.Entry
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(pair, "=")
		all = append(all, envoy.Entry{Key: key, Value: value})
	}
	return all
}

const edge = `
domain: edge
descriptors:
  - key: remote_address
    rate_limit: {unit: second, requests_per_unit: 10}
  - key: remote_address
    value: 50.0.0.5
    rate_limit: {unit: SECOND, requests_per_unit: 0}
  - key: path
    value: /v1/*
    rate_limit: {unit: minute, requests_per_unit: 5}
  - key: path
    value: /v1/long/*
    rate_limit: {unit: minute, requests_per_unit: 6}
  - key: path
    value: /v2/*
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 7}
  - key: path
    value: "/v3/*/act=ion*"
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 7}
  - key: path
    rate_limit: {unit: minute, requests_per_unit: 8}
  - key: message_type
    value: marketing
    rate_limit: {unit: hour, requests_per_unit: 3}
    descriptors:
      - key: to_number
        rate_limit: {unit: day, requests_per_unit: 5}
      - key: to_number
        value: "+1*"
        descriptors:
          - key: carrier
            rate_limit: {unit: week, requests_per_unit: 9}
  - key: ldap
    rate_limit: {unlimited: true}
  - key: nothing
  - key: bucket
    rate_limit: {unit: minute, unit_multiplier: 5, requests_per_unit: 100, strategy: token_bucket, burst: 20}
  - key: much
    rate_limit: {unit: year, requests_per_unit: 4294967295}
  - key: any
    value: "*"
    rate_limit: {unit: month, requests_per_unit: 1}
`

func TestMatch(t *testing.T) {
	c := mustRead(t, edge)
	for _, tt := range []struct{ entries, rate, identifier, metric string }{
		{"remote_address=1.2.3.4", "10/1s", "remote_address=1.2.3.4", "edge.remote_address"},
		{"remote_address=", "10/1s", "remote_address=", "edge.remote_address"},
		{"remote_address=50.0.0.5", "0/1s", "remote_address=50.0.0.5", "edge.remote_address_50.0.0.5"},
		{"path=/v1/a", "5/1m", "path=/v1/a", "edge.path_/v1/*"},
		{"path=/v1/long/a", "5/1m", "path=/v1/long/a", "edge.path_/v1/*"}, // the first in the file
		{"path=/v2/a", "7/1m", "path=/v2/*", "edge.path_/v2/*"},
		{"path=/v2/b", "7/1m", "path=/v2/*", "edge.path_/v2/*"},
		{"path=/v3/a/act=ions", "7/1m", "path=/v3/*/act=ion*", "edge.path_/v3/*/act=ion*"},
		{"path=/v3", "8/1m", "path=/v3", "edge.path"},
		{"message_type=marketing", "3/1h", "message_type=marketing", "edge.message_type_marketing"},
		{"message_type=other", "", "", ""},
		{"message_type=marketing,to_number=49", "5/1d", "message_type=marketing,to_number=49", "edge.message_type_marketing.to_number"},
		{"message_type=marketing,to_number=+1", "", "", ""}, // the best match has no limit
		{"message_type=marketing,to_number=+1,carrier=x", "9/1w", "message_type=marketing,to_number=+1,carrier=x", "edge.message_type_marketing.to_number_+1*.carrier"},
		{"message_type=marketing,to_number=49,carrier=x", "", "", ""}, // deeper than the configuration
		{"to_number=49", "", "", ""},
		{"remote_address=1.2.3.4,path=/v1/a", "", "", ""},
		{"nothing=x", "", "", ""},
		{"ldap=x", "unlimited", "ldap=x", "edge.ldap"},
		{"bucket=x", "100/5m", "bucket=x", "edge.bucket"},
		{"much=x", "1000000000/365d", "much=x", "edge.much"},
		{"any=", "1/30d", "any=", "edge.any_*"},
	} {
		m := c.Match("edge", entries(tt.entries))
		rate := ""
		if m.Limit != nil {
			rate = m.Parts[0].Rate.String()
			if m.Unlimited() {
				rate = "unlimited"
			}
		}
		if rate != tt.rate || m.Identifier != tt.identifier || m.Metric != tt.metric {
			t.Errorf("%s: got %q, %q, %q, want %q", tt.entries, rate, m.Identifier, m.Metric, tt)
		}
	}
	if m := c.Match("unknown", entries("remote_address=1.2.3.4")); m.Limit != nil {
		t.Errorf("unknown domain: %+v", m)
	}
	if m := c.Match("edge", nil); m.Limit != nil {
		t.Errorf("no entries: %+v", m)
	}
	bucket := c.Match("edge", entries("bucket=x")).Parts[0]
	if bucket.Capacity != 20 || bucket.Strategy.String() != "token_bucket" || bucket.Name != "5minute" || bucket.RequestsPerUnit != 100 || bucket.Unit != envoy.Minute || bucket.Multiplier != 5 {
		t.Errorf("extensions: %+v", bucket)
	}
}

func TestNoConfiguration(t *testing.T) {
	var c *envoy.Config
	if c.Knows("edge") || c.Match("edge", entries("a=b")).Limit != nil || c.String() != "" {
		t.Error("no configuration configures something")
	}
}

func TestMetricsOfValues(t *testing.T) {
	c := mustRead(t, `
domain: d
descriptors:
  - key: route
    value_to_metric: true
    descriptors:
      - key: method
        value: "G*"
        descriptors:
          - key: user
            rate_limit: {unit: minute, requests_per_unit: 60}
          - key: detailed
            detailed_metric: true
            rate_limit: {unit: minute, requests_per_unit: 60}
`)
	for text, want := range map[string]string{
		"route=api,method=GET,user=1":     "d.route_api.method_G*.user",
		"route=api,method=GET,detailed=1": "d.route_api.method_GET.detailed_1",
	} {
		if m := c.Match("d", entries(text)); m.Metric != want {
			t.Errorf("%s: %q, want %q", text, m.Metric, want)
		}
	}
}

// TestIdentifiersAreApart checks that different descriptors have different identifiers,
// whatever bytes are in them.
func TestIdentifiersAreApart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) []envoy.Entry {
			return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) envoy.Entry {
				text := rapid.StringOfN(rapid.SampledFrom([]rune("ab=,%:é")), 0, 3, -1)
				return envoy.Entry{Key: text.Draw(rt, "key"), Value: text.Draw(rt, "value")}
			}), 1, 3).Draw(rt, name)
		}
		l, err := envoy.NewLimit(1, envoy.Second, 1)
		if err != nil {
			rt.Fatal(err)
		}
		a, b := draw("a"), draw("b")
		same := fmt.Sprint(a) == fmt.Sprint(b) && len(a) == len(b)
		if !same {
			for i := range min(len(a), len(b)) {
				same = len(a) == len(b) && a[i] == b[i]
				if !same {
					break
				}
			}
		}
		if got := envoy.Override("d", a, l, "").Identifier == envoy.Override("d", b, l, "").Identifier; got != same {
			rt.Fatalf("%q and %q: same identifier %v, want %v", a, b, got, same)
		}
	})
	l, _ := envoy.NewLimit(1, envoy.Second, 1)
	long := envoy.Override("d", entries("k="+strings.Repeat("x", 100_000)), l, "").Identifier
	if other := envoy.Override("d", entries("k="+strings.Repeat("x", 100_001)), l, "").Identifier; long == other || len(long) > 1024 {
		t.Errorf("long values: %q and %q", long, other)
	}
}

// TestOverdraw has the overdraw of limits and domains, of one file or of several.
func TestOverdraw(t *testing.T) {
	const (
		own    = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1, overdraw: none}}, {key: b, rate_limit: {unit: day, requests_per_unit: 1}}]"
		always = "domain: d\noverdraw: always"
	)
	for _, tt := range []struct {
		files []string
		want  string // of a, b and the domain
	}{
		{[]string{own}, `["none" "" ""]`},
		{[]string{own, always}, `["none" "always" "always"]`},
		{[]string{always, own, always}, `["none" "always" "always"]`},
	} {
		r, err := read(true, tt.files...)
		if err != nil {
			t.Fatal(err)
		}
		c := r.Config
		if got := fmt.Sprintf("%q", []envoy.Overdraw{c.Match("d", entries("a=1")).Overdraw, c.Match("d", entries("b=1")).Overdraw, c.Overdraw("d")}); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.files, got, tt.want)
		}
		if o := c.Overdraw("unknown"); o != "" {
			t.Errorf("an unknown domain has %s", o)
		}
	}
	if _, err := read(true, always, "domain: d\noverdraw: none"); err == nil || !strings.Contains(err.Error(), "overdraw is none here, and always in another file of this domain") {
		t.Errorf("two that differ: %v", err)
	}
}

// TestCalendar has windows of the calendar and those of units that have one length.
func TestCalendar(t *testing.T) {
	at := strategy.InstantOf(time.Date(2026, time.March, 29, 12, 0, 0, 0, time.UTC)) // a Sunday; in Berlin it has 23 hours
	names := map[string]bool{}
	for _, tt := range []struct{ limit, begin, end string }{
		{"unit: month", "2026-03-08T00:00:00Z", "2026-04-07T00:00:00Z"},
		{"unit: month, calendar: true", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		{"unit: month, calendar: true, anchor_day: 15", "2026-03-15T00:00:00Z", "2026-04-15T00:00:00Z"},
		{"unit: month, calendar: true, time_zone: Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"},
		{"unit: month, unit_multiplier: 3, calendar: true", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		{"unit: year", "2025-12-18T00:00:00Z", "2026-12-18T00:00:00Z"},
		{"unit: year, calendar: true, anchor_day: 2", "2026-01-02T00:00:00Z", "2027-01-02T00:00:00Z"},
		{"unit: week", "2026-03-26T00:00:00Z", "2026-04-02T00:00:00Z"}, // from Thursday, as in envoyproxy/ratelimit
		{"unit: week, calendar: true", "2026-03-23T00:00:00Z", "2026-03-30T00:00:00Z"},
		{"unit: day", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"},
		{"unit: day, calendar: true", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"},
		{"unit: day, calendar: true, time_zone: Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
	} {
		c := mustRead(t, "domain: d\ndescriptors: [{key: a, rate_limit: {requests_per_unit: 5, "+tt.limit+"}}]")
		part := c.Match("d", entries("a=1")).Parts[0]
		begin, end := part.Window(at)
		text := func(i strategy.Instant) string { return time.UnixMicro(int64(i)).UTC().Format(time.RFC3339) }
		if text(begin) != tt.begin || text(end) != tt.end {
			t.Errorf("%s: from %s to %s, want %s to %s", tt.limit, text(begin), text(end), tt.begin, tt.end)
		}
		if names[part.Name] {
			t.Errorf("%s: another limit has the counter %s too", tt.limit, part.Name)
		}
		names[part.Name] = true
		if c.String() == "" || strings.Contains(tt.limit, "Berlin") != strings.Contains(c.String(), "Europe/Berlin") {
			t.Errorf("%s: shown as %s", tt.limit, c)
		}
	}
}

func TestReplaced(t *testing.T) {
	c := mustRead(t, `
domain: d
descriptors:
  - {key: a, rate_limit: {unit: second, requests_per_unit: 1, name: general}}
  - {key: b, rate_limit: {unit: second, requests_per_unit: 2, replaces: [{name: general}, {name: other}]}}
`)
	got := envoy.Replaced([]envoy.Match{c.Match("d", entries("a=1")), {}, c.Match("d", entries("b=1"))})
	if fmt.Sprint(got) != "[general other]" {
		t.Errorf("replaced: %v", got)
	}
}

func TestString(t *testing.T) {
	got := mustRead(t, `
domain: d
descriptors:
  - {key: b, value: c, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 2, max_debt: 9}}
  - {key: a, rate_limit: {unlimited: true}, descriptors: [{key: x, rate_limit: {unit: day, unit_multiplier: 2, requests_per_unit: 3, strategy: gcra, burst: 2}}]}
`).String()
	want := `d.a.x: unit=DAY requests_per_unit=3, shadow_mode: false, strategy: gcra, rate: 3/2d, burst: 2
d.a: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, unlimited: true
d.b_c: unit=MINUTE requests_per_unit=2, shadow_mode: true, max_debt: 9
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestProblems(t *testing.T) {
	limit := func(text string) string { return "domain: d\ndescriptors: [{key: a, rate_limit: " + text + "}]" }
	limits := func(text string) string { return "domain: d\ndescriptors: [{key: a, rate_limits: " + text + "}]" }
	many := ""
	for i := range strategy.MaxLimits + 1 {
		many += fmt.Sprintf("{unit: second, unit_multiplier: %d, requests_per_unit: 1}, ", i+1)
	}
	for data, want := range map[string]string{
		"":                                     "0.yaml:1:1: no domain; add one",
		"domain: ''":                           `0.yaml:1:9: no domain; add one, as in "domain: edge"`,
		"domain: d\nfoo: 1":                    `0.yaml:2:1: unknown key "foo"`,
		"domain: d\ndescriptors: {}":           "0.yaml:2:14: a mapping, where a list is wanted",
		"domain: d\ndescriptors: [a]":          `0.yaml:2:15: "a", where a mapping is wanted`,
		"domain: d\ndescriptors: [{value: x}]": "0.yaml:2:15: a descriptor needs a key; this one has none",
		"domain: d\ndescriptors: [{key: ''}]":  "0.yaml:2:21: a descriptor needs a key; this one has none",
		"domain: d\ndescriptors: [{key: a}, {key: a}]":                                                                      `0.yaml:2:31: descriptor "d.a" is already in this list`,
		"domain: d\ndescriptors: [{key: a, value: b}, {key: a, value: b}]":                                                  `descriptor "d.a_b" is already in this list`,
		"domain: d\ndescriptors: [{key: a, share_threshold: true}]":                                                         `share_threshold needs a value with a *, such as "files/*"; this one is ""`,
		"domain: d\ndescriptors: [{key: a, shadow_mode: 5}]":                                                                `"5" is neither true nor false`,
		"domain: d\noverdraw: twice":                                                                                        `0.yaml:2:11: overdraw "twice" is not known; use none, once or always`,
		limit("{unit: day, requests_per_unit: 1, overdraw: true}"):                                                          `overdraw "true" is not known; use none, once or always`,
		limits("[{unit: day, requests_per_unit: 1, overdraw: once}, {unit: hour, requests_per_unit: 1, overdraw: always}]"): `overdraw is always here, and once of another limit of this descriptor`,
		limit("{}"): `unit "" is not known; use second, minute, hour, day, week, month, year`,
		limit("{unit: fortnight, requests_per_unit: 1}"):                                                       `0.yaml:2:43: unit "fortnight" is not known`,
		limit("{unit: unknown, requests_per_unit: 1}"):                                                         `unit "unknown" is not known`,
		limit("{unit: day, requests_per_unit: -1}"):                                                            `"-1" is not a whole number of 0 to 4294967295`,
		limit("{unit: day, requests_per_unit: 4294967296}"):                                                    `"4294967296" is over 4294967295`,
		limit("{unlimited: true, unit: day}"):                                                                  `unlimited and a unit of "day" are both given; leave one of them out`,
		limit("{unit: day, replaces: [{}]}"):                                                                   "an item of replaces needs a name",
		limit("{unit: day, name: x, replaces: [{name: x}]}"):                                                   `"x" replaces itself`,
		limit("{unit: day, unit_multiplier: 0}"):                                                               "unit_multiplier 0 makes a period of 0 or of more than 366 days; use 1 to 366 with this unit",
		limit("{unit: year, unit_multiplier: 4294967295}"):                                                     "use 1 to 1 with this unit",
		limit("{unit: day, strategy: x}"):                                                                      `unknown strategy "x"`,
		limits("{unit: day}"):                                                                                  "a mapping, where a list is wanted",
		limits("[{unit: day}, {}]"):                                                                            `unit "" is not known`,
		limits("[{unit: day}, {unit: DAY}]"):                                                                   "another limit of this descriptor has the unit \"DAY\" and the same strategy",
		limits("[{unit: day, burst: 5}]"):                                                                      "burst 5: fixed_window has none",
		limits("[" + many + "]"):                                                                               "more than 16 limits on one descriptor",
		limit("{unlimited: true}, rate_limits: [{unit: day}]"):                                                 "no other can be beside it",
		limit("{unit: day, burst: 5}"):                                                                         "burst 5: fixed_window has none",
		limit("{unit: day, requests_per_unit: 5000, strategy: sliding_window_log}"):                            "caps its count at 1000",
		limit("{unit: hour, calendar: true}"):                                                                  "calendar: windows of a hour are the same in all calendars; leave it out, or use day, week, month or year",
		limit("{unit: month, calendar: true, strategy: gcra}"):                                                 "calendar: a gcra follows no calendar",
		limit("{unit: month, calendar: true, unit_multiplier: 5}"):                                             "unit_multiplier 5: months of the calendar are a whole part of a year",
		limit("{unit: month, calendar: true, unit_multiplier: 0}"):                                             "unit_multiplier 0",
		limit("{unit: year, calendar: true, unit_multiplier: 2}"):                                              "use 1 to 1 with this unit",
		limit("{unit: month, calendar: true, anchor_day: 29}"):                                                 "anchor_day 29: not every month has this day; write 1 to 28",
		limit("{unit: week, calendar: true, anchor_day: 2}"):                                                   "anchor_day 2: only months and years begin on a day of a month; leave it out, or use the unit month or year",
		limit("{unit: month, anchor_day: 2}"):                                                                  "anchor_day 2: without the calendar, a month begins on no day of a month; add calendar: true",
		limit("{unit: day, time_zone: Europe/Berlin}"):                                                         "time_zone Europe/Berlin: without the calendar, windows are the same in all zones; add calendar: true",
		limit("{unit: day, calendar: true, time_zone: Berlin}"):                                                `0.yaml:2:75: time_zone "Berlin" is not known`,
		limit("{unlimited: true, calendar: true}"):                                                             "an unlimited descriptor counts nothing; leave out calendar",
		limit("{unit: day, overdraw: none, max_debt: 5}"):                                                      "overdraw: none leaves no debt; leave one of them out",
		limit("{unit: day, max_debt: -5}"):                                                                     `"-5" is not a whole number`,
		"domain: d\ndescriptors:" + strings.Repeat(" [{key: a, descriptors:", 120) + strings.Repeat("}]", 120): "nested more than 100 deep",
	} {
		if _, err := read(false, data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %s", data, err, want)
		}
	}
}

func TestSeveralFiles(t *testing.T) {
	one, two := "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]", "domain: d\ndescriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 2}}]"
	if _, err := read(false, one, two); err == nil || !strings.Contains(err.Error(), `1.yaml:1:9: domain "d" is also that of 0.yaml`) {
		t.Errorf("one domain in two files: %v", err)
	}
	r, err := read(true, one, two)
	if err != nil || r.Config.Match("d", entries("a=")).Limit == nil || r.Config.Match("d", entries("b=")).Limit == nil {
		t.Errorf("merged: %v, %s", err, r.Config)
	}
	if _, err := read(true, one, one); err == nil || !strings.Contains(err.Error(), `descriptor "d.a" is already in this list`) {
		t.Errorf("merged with itself: %v", err)
	}
}

// TestMisplacedKeys reads keys in places where they have no effect. Envoy's service accepts
// them there.
func TestMisplacedKeys(t *testing.T) {
	r, err := read(false, "domain: d\nunit: day\ndescriptors:\n  - {key: a, unit: day, rate_limit: {unit: day, requests_per_unit: 1, shadow_mode: true}}")
	if err != nil || fmt.Sprint(r.Warnings) != "[0.yaml:2: unit has no effect here 0.yaml:4: unit has no effect here 0.yaml:4: shadow_mode has no effect here]" {
		t.Errorf("%v, %q", err, r.Warnings)
	}
}

// nested returns a file whose descriptors are nested so deep.
func nested(depth int) string {
	return "domain: d\ndescriptors:" + strings.Repeat(" [{key: a, descriptors:", depth-1) + " [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]" + strings.Repeat("}]", depth-1)
}

func TestDepth(t *testing.T) {
	for depth := 98; depth <= 102; depth++ {
		r, err := read(false, nested(depth))
		if depth > 100 {
			if err == nil || !strings.Contains(err.Error(), "descriptors are nested more than 100 deep") {
				t.Errorf("%d deep: got %v", depth, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d deep: %v", depth, err)
		}
		path := strings.Repeat("a=,", depth-1) + "a="
		if r.Config.Match("d", entries(path)).Limit == nil {
			t.Errorf("%d deep: the innermost limit is lost", depth)
		}
	}
}

// TestDescriptorsOfThemselves reads descriptors that an alias makes endless.
func TestDescriptorsOfThemselves(t *testing.T) {
	if _, err := read(false, "domain: d\ndescriptors: &x [{key: a, descriptors: *x}]"); err == nil || !strings.Contains(err.Error(), "nested more than 100 deep") {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		edge, nested(98), nested(99), nested(100), nested(101), nested(102),
		"domain: d\ndescriptors: &x [{key: a, descriptors: *x}, {key: b, descriptors: *x}]",
		"domain: d\ndescriptors: [&x {key: a, rate_limit: &l {unit: day, replaces: [*x]}}, {<<: *x, value: b*, share_threshold: yes}]",
		"domain: d\ndescriptors: [{key: a, shadow_mode: , quota_mode: {}, metadata: {a: [1, {b: ~}]}, rate_limit: {unit: , unlimited: , burst: }}]",
		"domain: ~\ndescriptors: ~", "- a", "domain: [a]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		if _, err := read(true, data, edge, data); err != nil {
			_ = err.Error()
		}
		r, err := read(false, data)
		if err != nil {
			return
		}
		for _, e := range []string{"remote_address=1.2.3.4", "path=/v1/a", "message_type=marketing,to_number=+1,carrier=x", data} {
			m := r.Config.Match("edge", entries(e))
			if m.Limit != nil && !m.Unlimited() && (m.Identifier == "" || m.Metric == "" || m.Parts[0].Rate.Period == 0) {
				t.Errorf("%q: %+v", e, m)
			}
		}
		_ = r.Config.String()
	})
}

func BenchmarkMatch(b *testing.B) {
	c := mustRead(b, edge)
	e := entries("message_type=marketing,to_number=+12061234567,carrier=x")
	b.ReportAllocs()
	for b.Loop() {
		c.Match("edge", e)
	}
}
