package envoy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// notOfMessages are the keys of files that messages do not have.
var notOfMessages = []string{"unit_multiplier", "strategy", "burst", "share_threshold", "value_to_metric", "rate_limits"}

// withoutKeys removes the keys of notOfMessages from a mapping, and has its unit and
// numbers be what both a file and a message in JSON may have.
func withoutKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range notOfMessages {
			delete(v, key)
		}
		for key, value := range v {
			v[key] = withoutKeys(value)
		}
		if unit, ok := v["unit"].(string); ok {
			v["unit"] = strings.ToUpper(unit)
		}
	case []any:
		for i := range v {
			v[i] = withoutKeys(v[i])
		}
	}
	return v
}

// bothForms returns a YAML file without what messages cannot say, and the same as a
// message. Its JSON is the file, since that is YAML too.
func bothForms(t testing.TB, text string) (file string, message []byte, ok bool) {
	t.Helper()
	f, root := yamlfile.Parse("x.yaml", []byte(text))
	tree := withoutKeys(root.Map())
	if f.Err() != nil {
		return "", nil, false
	}
	data, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	m := new(rlsconfv3.RateLimitConfig)
	if err := protojson.Unmarshal(data, m); err != nil { // such as an unknown key, or a number below 0
		return "", nil, false
	}
	return string(data), marshal(t, m), true
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readMessages reads messages, which are called message 0 and so on.
func readMessages(merge bool, all ...[]byte) (*envoy.Reader, error) {
	r := envoy.NewReader(envoy.Options{Merge: merge, MaxLogCount: 1000})
	for i, data := range all {
		if err := r.ReadMessage(fmt.Sprintf("message %d", i), data); err != nil {
			return r, err
		}
	}
	return r, nil
}

// TestMessagesAreAsFiles reads every file of these tests as a file and as a message: both
// are the same configuration, or are refused with the same words.
func TestMessagesAreAsFiles(t *testing.T) {
	example, err := os.ReadFile("../../../deploy/envoy/ratelimit/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(text string) string { return "domain: d\ndescriptors: [{key: a, rate_limit: " + text + "}]" }
	compared, refused := 0, 0
	for _, text := range []string{
		edge, string(example), nested(99), nested(100), nested(101), nested(102), "domain: d", "domain: ''", "descriptors: []",
		"domain: d\ndescriptors: [{key: a, detailed_metric: true, shadow_mode: true, quota_mode: true, metadata: {a: [1, {b: x}], c: true}, rate_limit: {unit: month, requests_per_unit: 4294967295}}]",
		"domain: d\ndescriptors: [{key: a, metadata: {}, rate_limit: {unit: year, requests_per_unit: 0}}]",
		"domain: d\ndescriptors: [{key: 'x-*', rate_limit: {unit: week, requests_per_unit: 1}}, {key: a, value: 'a*b*c', rate_limit: {unit: day, requests_per_unit: 2}}]",
		"domain: d\ndescriptors: [{value: x}]", "domain: d\ndescriptors: [{key: ''}]", "domain: d\ndescriptors: [{key: a}, {key: a}]",
		"domain: d\ndescriptors: [{key: a, value: b}, {key: a, value: b}]",
		limit("{unit: day, name: x, replaces: [{name: y}, {name: z}], requests_per_unit: 3}"), limit("{unlimited: true, name: x}"),
		limit("{}"), limit("{unit: unknown, requests_per_unit: 1}"), limit("{unlimited: true, unit: day}"), limit("{unit: day, replaces: [{}]}"),
		limit("{unit: day, name: x, replaces: [{name: x}]}"),
	} {
		file, message, ok := bothForms(t, text)
		if !ok {
			t.Errorf("%.80s: cannot be a message", text)
			continue
		}
		ofFile, fileErr := read(false, file)
		ofMessage, messageErr := readMessages(false, message)
		if (fileErr == nil) != (messageErr == nil) {
			t.Errorf("%.80s: as a file %v, as a message %v", text, fileErr, messageErr)
			continue
		}
		if fileErr != nil {
			refused++
			problem := messageErr.Error()[strings.LastIndex(messageErr.Error(), ": ")+2:]
			if strings.Contains(problem, "item of replaces") {
				problem = "an item of replaces needs a name"
			}
			if !strings.Contains(strings.ReplaceAll(fileErr.Error(), `unit "" is`, `unit "UNKNOWN" is`), problem) {
				t.Errorf("%.80s: as a file %v, as a message %v", text, fileErr, messageErr)
			}
			continue
		}
		compared++
		if !reflect.DeepEqual(ofFile.Config, ofMessage.Config) {
			t.Errorf("%.80s: as a file\n%s\nas a message\n%s", text, ofFile.Config, ofMessage.Config)
		}
	}
	if compared < 8 || refused < 10 {
		t.Errorf("%d were compared, %d refused", compared, refused)
	}
}

// TestRandomMessagesAreAsFiles is TestMessagesAreAsFiles for random trees.
func TestRandomMessagesAreAsFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var descriptor func(depth int) map[string]any
		descriptor = func(depth int) map[string]any {
			d := map[string]any{"key": rapid.SampledFrom([]string{"a", "b", "x-*", "c", "d"}).Draw(t, "key")}
			maybe := func(key string, g *rapid.Generator[any]) {
				if rapid.IntRange(0, 2).Draw(t, "has "+key) == 0 {
					d[key] = g.Draw(t, key)
				}
			}
			boolean := rapid.Map(rapid.Bool(), func(b bool) any { return b })
			maybe("value", rapid.Map(rapid.SampledFrom([]string{"1", "2*", "*3*4", "x y"}), func(s string) any { return s }))
			maybe("shadow_mode", boolean)
			maybe("quota_mode", boolean)
			maybe("detailed_metric", boolean)
			maybe("metadata", rapid.Map(rapid.Float64Range(-9, 9), func(f float64) any { return map[string]any{"n": f, "l": []any{"x", true}} }))
			maybe("rate_limit", rapid.Custom(func(t *rapid.T) any {
				l := map[string]any{
					"unit":              rapid.SampledFrom([]string{"SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR"}).Draw(t, "unit"),
					"requests_per_unit": rapid.Uint32().Draw(t, "requests"),
				}
				if rapid.IntRange(0, 4).Draw(t, "unlimited") == 0 {
					l = map[string]any{"unlimited": true}
				}
				if rapid.Bool().Draw(t, "named") {
					l["name"], l["replaces"] = "n", []any{map[string]any{"name": "m"}}
				}
				return l
			}))
			if depth < 3 {
				var below []any
				for range rapid.IntRange(0, 3).Draw(t, "below") {
					below = append(below, descriptor(depth+1))
				}
				if below != nil {
					d["descriptors"] = below
				}
			}
			return d
		}
		data, err := json.Marshal(map[string]any{"domain": "d", "descriptors": []any{descriptor(0), descriptor(0)}})
		if err != nil {
			t.Fatal(err)
		}
		m := new(rlsconfv3.RateLimitConfig)
		if err := protojson.Unmarshal(data, m); err != nil {
			t.Fatal(err)
		}
		message, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		ofFile, fileErr := read(false, string(data))
		ofMessage, messageErr := readMessages(false, message)
		if (fileErr == nil) != (messageErr == nil) || fileErr == nil && (!reflect.DeepEqual(ofFile.Config, ofMessage.Config) || len(ofFile.Warnings) != len(ofMessage.Warnings)) {
			t.Fatalf("%s\nas a file %v\n%s\nas a message %v\n%s", data, fileErr, ofFile.Config, messageErr, ofMessage.Config)
		}
	})
}

func TestMessageProblems(t *testing.T) {
	config := func(domain string, descriptors ...*rlsconfv3.RateLimitDescriptor) []byte {
		return marshal(t, &rlsconfv3.RateLimitConfig{Name: "default/eg", Domain: domain, Descriptors: descriptors})
	}
	day := &rlsconfv3.RateLimitPolicy{Unit: rlsconfv3.RateLimitUnit_DAY, RequestsPerUnit: 1}
	many := make([]*rlsconfv3.RateLimitDescriptor, 30)
	for i := range many {
		many[i] = &rlsconfv3.RateLimitDescriptor{}
	}
	for _, tt := range []struct {
		message []byte
		want    string
	}{
		{
			config("edge", &rlsconfv3.RateLimitDescriptor{Key: "a"}, &rlsconfv3.RateLimitDescriptor{Key: "b", Value: "c", Descriptors: []*rlsconfv3.RateLimitDescriptor{{Key: "d", RateLimit: &rlsconfv3.RateLimitPolicy{}}}}),
			`resource "default/eg": descriptors[1].descriptors[0] ("edge.b_c.d"): unit "UNKNOWN" is not known; use second, minute, hour, day, week, month, year`,
		},
		{
			config("edge", &rlsconfv3.RateLimitDescriptor{Key: "a", RateLimit: &rlsconfv3.RateLimitPolicy{Unit: 99}}),
			`resource "default/eg": descriptors[0] ("edge.a"): unit "99" is not known`,
		},
		{config("", &rlsconfv3.RateLimitDescriptor{Key: "a", RateLimit: day}), `resource "default/eg": no domain; add one, as in "domain: edge"`},
		{config("edge", many...), "\nresource \"default/eg\": and 20 more problems"},
		{[]byte("\xff\xff"), "message 0: "},
		{[]byte{0x12, 1, 0xff}, "message 0: "}, // the domain is not UTF-8
	} {
		if _, err := readMessages(false, tt.message); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	two := config("edge", &rlsconfv3.RateLimitDescriptor{Key: "a", RateLimit: day})
	other := marshal(t, &rlsconfv3.RateLimitConfig{Name: "other", Domain: "edge", Descriptors: []*rlsconfv3.RateLimitDescriptor{{Key: "b", RateLimit: day}}})
	if _, err := readMessages(false, two, other); err == nil || !strings.Contains(err.Error(), `resource "other": domain "edge" is also that of resource "default/eg"`) {
		t.Errorf("one domain twice: %v", err)
	}
	if r, err := readMessages(true, two, other); err != nil || r.Config.Match("edge", entries("b=")).Limit == nil {
		t.Errorf("merged: %v", err)
	}
}

// TestMessagesAreBounded has small messages that would take much memory.
func TestMessagesAreBounded(t *testing.T) {
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	repeat := func(data []byte) []byte { return []byte(strings.Repeat(string(data), 2_200_000)) }
	deep := []byte(nil)
	for range 2_000 {
		deep = field(4, deep)
	}
	deepMetadata := []byte(nil)
	for range 2_000 {
		deepMetadata = field(1, append(field(1, []byte("k")), field(2, field(5, deepMetadata))...))
	}
	for want, message := range map[string][]byte{
		"more than 500000 descriptors":                 repeat(field(3, nil)),
		"more than 500000 descriptors and replaced":    field(3, field(3, repeat(field(5, nil)))),
		"more than 1048576 bytes of metadata":          field(3, field(8, field(1, repeat(field(2, nil))))),
		"descriptors are nested more than 100 deep":    field(3, deep),
		"message 0: proto: exceeded maximum recursion": field(3, append(field(1, []byte("k")), field(8, deepMetadata)...)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readMessages(false, message)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(want, "message 0: proto: ")) {
			t.Errorf("got %.300v, want %s", err, want)
		}
		if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 100 {
			t.Errorf("%s: reading %d bytes allocates %d MB", want, len(message), mb)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	for _, text := range []string{edge, nested(100), nested(101), "domain: d"} {
		if _, message, ok := bothForms(f, text); ok {
			f.Add(message)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := readMessages(true, data, data)
		if err != nil {
			_ = err.Error()
			return
		}
		_ = r.Config.String()
		for _, domain := range r.Config.Domains() {
			r.Config.Match(domain, entries("a=b,c=d"))
		}
	})
}
