package plainhttp

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"testing"
)

// FuzzRequest has net/http read whatever is taken for a plain request.
func FuzzRequest(f *testing.F) {
	usual, odd := requests()
	for _, text := range append(usual, odd...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		text = text[:min(len(text), bufferBytes)]
		var got request
		got.init(path, "client")
		if got.find(text) != whole {
			return
		}
		in := bufio.NewReaderSize(bytes.NewReader(text), bufferBytes)
		want, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("%q: net/http refuses it: %v", text, err)
		}
		body, _ := io.ReadAll(want.Body)
		mine, _ := io.ReadAll(got.Body)
		if !bytes.Equal(body, mine) {
			t.Errorf("%q: the body is %q, want %q", text, mine, body)
		}
		if left, _ := io.ReadAll(in); got.size != len(text)-len(left) {
			t.Errorf("%q: it has %d bytes, want %d", text, got.size, len(text)-len(left))
		}
		want.Body, want.RemoteAddr = got.Body, "client"
		if !reflect.DeepEqual(&got.Request, want) {
			t.Errorf("%q:\n%+v, want\n%+v", text, &got.Request, want)
		}
		for i := 1; i < got.size; i++ { // what has not come yet changes nothing
			var begun request
			begun.init(path, "client")
			if is := begun.find(text[:i]); is != part && is != short {
				t.Fatalf("%q: its first %d bytes are taken for %d", text, i, is)
			}
		}
	})
}
