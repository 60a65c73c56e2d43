package accesslog_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// TestJSONAgain finds in random objects what encoding/json finds, with any escapes, depth and spaces.
// Of a line that is cut off anywhere it says that it is none.
func TestJSONAgain(t *testing.T) {
	fields := []string{"a", "b.c", "name", "a-longer-name"}
	p, err := accesslog.NewParser(accesslog.Options{Format: accesslog.JSON, Fields: fields, Names: map[string]string{"name": "b.name", "time": "t"}})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	var r accesslog.Record
	found := 0
	for range 3000 {
		object := randomObject(random, 0)
		object["t"] = 1790000000
		line, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			if line, err = json.MarshalIndent(object, "", "\t"); err != nil {
				t.Fatal(err)
			}
			line = []byte(strings.ReplaceAll(string(line), "\n", " "))
		}
		if problem := p.Parse(line, &r); problem != accesslog.None || r.At != 1790000000_000_000 {
			t.Fatalf("%s: %q, %d", line, problem, r.At)
		}
		for i, place := range []string{"a", "b.c", "b.name", "a-longer-name"} {
			want := wanted(object, place)
			if got := string(r.Values[i]); got != want {
				t.Fatalf("%s: %s is %q, want %q", line, place, got, want)
			}
			if want != "" {
				found++
			}
		}
		if cut := 1 + random.IntN(len(line)-1); p.Parse(line[:cut], &r) != accesslog.NotJSON {
			t.Fatalf("%s is read, although it is cut off", line[:cut])
		}
	}
	if found < 500 {
		t.Errorf("only %d values were there to be found", found)
	}
}

// randomObject returns an object, in which some keys are those that the test asks for.
func randomObject(random *rand.Rand, depth int) map[string]any {
	object := map[string]any{}
	for range random.IntN(6) {
		key := []string{"a", "b", "c", "name", "a-longer-name", "z", "", `q"`, `\`, strings.Repeat("k", 65)}[random.IntN(10)]
		object[key] = randomValue(random, depth)
	}
	return object
}

func randomValue(random *rand.Rand, depth int) any {
	switch n := random.IntN(9); {
	case n == 0:
		return nil
	case n == 1:
		return random.IntN(2) == 0
	case n == 2:
		return random.IntN(1_000_000)
	case n == 3 && depth < 5:
		some := make([]any, random.IntN(3))
		for i := range some {
			some[i] = randomValue(random, depth+1)
		}
		return some
	case n < 6 && depth < 5:
		return randomObject(random, depth+1)
	}
	var text strings.Builder
	for range random.IntN(20) {
		text.WriteString([]string{"x", "10.0.0.1", `"`, `\`, "/", "{", "}", "[", "]", ",", ":", "é", "\U0001f600", "\t", "\x01", "<", "\u2028", " "}[random.IntN(18)])
	}
	return text.String()
}

// wanted returns the text that an object has at a place: a string, the first of an array, or what
// else is written without quotation marks.
func wanted(object map[string]any, place string) string {
	name, rest, deeper := strings.Cut(place, ".")
	value := object[name]
	if deeper {
		inner, _ := value.(map[string]any)
		return wanted(inner, rest)
	}
	if some, ok := value.([]any); ok {
		value = nil
		if len(some) > 0 {
			value, _ = some[0].(string)
		}
	}
	if _, ok := value.(map[string]any); ok || value == nil {
		return ""
	}
	if text := fmt.Sprint(value); text != "-" {
		return text
	}
	return ""
}
