package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

func TestCheckUTF8(t *testing.T) {
	const text = `{"namespace": "é"}`
	var little, big []byte
	for _, u := range utf16.Encode([]rune(text)) {
		little, big = append(little, byte(u), byte(u>>8)), append(big, byte(u>>8), byte(u))
	}
	for body, want := range map[string]string{
		"": "", "{": "", text: "", "\x00\x00": "",
		"\xef\xbb\xbf" + text:             "begins with a byte order mark",
		"\xff\xfe" + string(little):       "is UTF-16",
		"\xfe\xff" + string(big):          "is UTF-16",
		string(little):                    "is UTF-16",
		string(big):                       "is UTF-16",
		`{"namespace": "` + "\xe9" + `"}`: "byte 15, which is 0xe9",
	} {
		err := CheckUTF8([]byte(body))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "send JSON as UTF-8")) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func TestUndecodable(t *testing.T) {
	if got := Undecodable(errors.New("proto:\u00a0(line 1:2): no")); got != "(line 1:2): no" {
		t.Errorf("%q", got)
	}
	for i := range 4 {
		got := Undecodable(errors.New(strings.Repeat("x", i) + strings.Repeat("é", 10_000)))
		if len(got) > maxReasonBytes+3 || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
			t.Errorf("%q", got)
		}
	}
}

// FuzzObjects compares how many objects are counted with how many a decoder sees.
func FuzzObjects(f *testing.F) {
	for _, seed := range []string{"{}", `{"a":[{},{"b":"{"}]}`, `["\\\"{", {}]`, `"{"`, "{{{"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, d := 0, json.NewDecoder(bytes.NewReader(text))
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			if token == json.Delim('{') {
				n++
			}
		}
		if got := Objects(text); got != n {
			t.Errorf("%q: %d objects, want %d", text, got, n)
		}
		if err := CheckUTF8(text); err != nil && utf8.Valid(text) && !bytes.HasPrefix(text, []byte("\ufeff")) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
