package accesslog_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// samples has a line of each format as its program writes it, all of one request.
var samples = map[accesslog.Format][]string{
	accesslog.Combined: {
		`192.0.2.7 - alice [21/Sep/2026:16:13:20 +0200] "GET /items?id=7 HTTP/1.1" 200 512 "https://example.org/" "curl/8.5 (\"x\")"`,
		`192.0.2.7 - alice [21/Sep/2026:14:13:20 +0000] "GET /items HTTP/1.1" 200 512`,
		`shop.example.org:443 192.0.2.7 - alice [21/Sep/2026:14:13:20 +0000] "GET /items HTTP/1.1" 200 512 "-" "curl"`,
		`192.0.2.7 - - [21/Sep/2026:14:13:20 +0000] "GET /items HTTP/1.1" 200 512 - "curl" 13 "router" "http://10.0.0.1:80" 247ms`,
	},
	accesslog.Caddy: {
		`{"level":"info","ts":1790000000.25,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"192.0.2.7","remote_port":"4711","client_ip":"192.0.2.7","proto":"HTTP/2.0","method":"GET","host":"example.org","uri":"/items?id=7","headers":{"User-Agent":["curl/8.5"],"Accept":["*/*"]}},"bytes_read":0,"user_id":"alice","duration":0.0004,"size":512,"status":200}`,
	},
	accesslog.Traefik: {
		`{"ClientAddr":"192.0.2.7:4711","ClientHost":"192.0.2.7","ClientPort":"4711","ClientUsername":"alice","DownstreamContentSize":512,"DownstreamStatus":200,"Duration":400000,"RequestHost":"example.org","RequestMethod":"GET","RequestPath":"/items?id=7","StartLocal":"2026-09-21T16:13:20.25+02:00","StartUTC":"2026-09-21T14:13:20.25Z","level":"info","msg":"","time":"2026-09-21T14:13:21Z"}`,
	},
	accesslog.Envoy: {
		`[2026-09-21T14:13:20.250Z] "GET /items?id=7 HTTP/1.1" 200 - 0 512 3 2 "198.51.100.1, 192.0.2.7" "curl/8.5" "f0e1" "example.org" "10.0.0.1:80"`,
		`[2026-09-21T14:13:20.250Z] "GET /items?id=7 HTTP/2" 200 - via_upstream - "-" 0 512 3 2 "198.51.100.1" "curl/8.5" "f0e1" "example.org" "10.0.0.1:80" outbound|80||shop.default.svc.cluster.local 10.0.1.2:35794 10.0.1.2:8443 192.0.2.7:8459 example.org -`,
	},
	accesslog.EnvoyJSON: {
		`{"start_time":"2026-09-21T14:13:20.250Z","method":"GET","path":"/items?id=7","response_code":200,"response_flags":"-","bytes_sent":512,"downstream_remote_address":"192.0.2.7:4711","x_forwarded_for":null,"authority":"example.org"}`,
	},
	accesslog.ALB: {
		`https 2026-09-21T14:13:20.250000Z app/my-lb/50dc6c495c0c9188 192.0.2.7:4711 10.0.0.1:80 0.000 0.001 0.000 200 200 34 512 "GET https://example.org:443/items?id=7 HTTP/1.1" "curl/8.5" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 arn:aws:elasticloadbalancing:us-east-2:1:targetgroup/t/7 "Root=1-58337262" "example.org" "-" 0 2026-09-21T14:13:20.249Z "forward" "-" "-" "10.0.0.1:80" "200" "-" "-"`,
	},
	accesslog.CSV: {
		"time,ip,path\n" + `2026-09-21T14:13:20.25Z,"192.0.2.7","/items?q=""a"""`,
		"when;client_ip;path\n1790000000;192.0.2.7;/items",
	},
	accesslog.JSON: {
		`{"timestamp":"2026-09-21 14:13:20,25 +0000","ip":"192.0.2.7","path":"\/items?\u0041","tags":[{"a":"]}"}],"empty":{}}`,
		`{"ts":1790000000250,"client_address":"192.0.2.7","url":"https://example.org/items"}`,
	},
}

// TestFormats finds out the format of each sample, and reads the same of all.
func TestFormats(t *testing.T) {
	for format, all := range samples {
		for _, text := range all {
			lines := strings.Split(text, "\n")
			names := map[string]string{}
			if strings.HasPrefix(text, "when") {
				names["time"] = "when"
			}
			found, err := accesslog.Detect(lines, names)
			if err != nil || found != format {
				t.Errorf("%s: found %s, %v", text, found, err)
				continue
			}
			p, err := accesslog.NewParser(accesslog.Options{Format: format, Fields: []string{accesslog.ClientAddress, accesslog.Path}, Names: names, Header: lines[0]})
			if err != nil {
				t.Fatal(err)
			}
			var r accesslog.Record
			line := []byte(lines[len(lines)-1])
			problem := p.Parse(line, &r)
			at := time.UnixMicro(r.At).UTC().Truncate(time.Second).Format(time.RFC3339)
			if problem != "" || at != "2026-09-21T14:13:20Z" || string(r.Values[0]) != "192.0.2.7" || string(r.Values[1]) != "/items" {
				t.Errorf("%s: %q, %s, %q", text, problem, at, r.Values)
			}
			if n := testing.AllocsPerRun(10, func() { p.Parse(line, &r) }); n > 0 {
				t.Errorf("%s: %v allocations", text, n)
			}
		}
	}
}

func TestFields(t *testing.T) {
	for _, c := range []struct {
		o    accesslog.Options
		line string
		want string // the value, or the error
	}{
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{"user"}}, samples[accesslog.Combined][0], "alice"},
		// As Envoy writes what clients send: with their quotation marks.
		{accesslog.Options{Format: accesslog.Envoy, Fields: []string{accesslog.ClientAddress}}, `[2026-09-21T14:13:20.250Z] "GET /a?q="x" HTTP/1.1" 200 - 0 1 0 - "203.0.113.2" "we"ird \ agent" "b1ce" "h" "-"`, "203.0.113.2"},
		{accesslog.Options{Format: accesslog.Envoy, Fields: []string{"path"}}, `[2026-09-21T14:13:20.250Z] "GET /a"x HTTP/1.1" 200 - 0 1 0 - "203.0.113.2" "curl" "b1ce" "h" "-"`, `/a"x`},
		// As nginx writes a user who has chosen a name with a space.
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{"user"}}, `192.0.2.7 - al ice [21/Sep/2026:16:13:20 +0200] "GET / HTTP/1.1" 200 1`, "al ice"},
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{accesslog.ClientAddress}}, `example.org:80 192.0.2.7 - al ice [21/Sep/2026:16:13:20 +0200] "GET / HTTP/1.1" 200 1`, "192.0.2.7"},
		{accesslog.Options{Format: accesslog.ALB, Fields: []string{accesslog.ClientAddress}}, `h2 2026-09-21T14:13:20.250000Z app/my-lb/50dc [2001:db8::1]:4711 - -1 -1 -1 400 - 0 0 "- http://www.example.org:80- -" "-" - - - "-" "-" "-" - 2026-09-21T14:13:20.120000Z "-" "-" "-" "-" "-" "-" "-"`, "2001:db8::1"},
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{"user_agent"}}, samples[accesslog.Combined][0], `curl/8.5 (\"x\")`},
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{"user_agent"}}, samples[accesslog.Combined][1], ""},
		{accesslog.Options{Format: accesslog.Combined, Fields: []string{"hosst"}}, "", `field "hosst": the combined format of nginx and Apache has none of this name; use one of bytes_sent, client_address, host, method, path, referer, status, url, user, user_agent, vhost`},
		{accesslog.Options{Format: accesslog.Caddy, Fields: []string{"user_agent"}}, samples[accesslog.Caddy][0], "curl/8.5"},
		{accesslog.Options{Format: accesslog.Caddy, Fields: []string{"accept"}}, samples[accesslog.Caddy][0], "*/*"},
		{accesslog.Options{Format: accesslog.Traefik, Fields: []string{"x-api-key"}}, `{"StartUTC":"2026-09-21T14:13:20Z","request_X-Api-Key":"k"}`, "k"},
		{accesslog.Options{Format: accesslog.JSON, Fields: []string{"x-api-key"}}, `{"time":1790000000,"x_api_key":"k"}`, "k"},
		{accesslog.Options{Format: accesslog.Caddy, Fields: []string{"request.proto"}}, samples[accesslog.Caddy][0], "HTTP/2.0"},
		{accesslog.Options{Format: accesslog.ALB, Fields: []string{"host"}}, samples[accesslog.ALB][0], "example.org:443"},
		{accesslog.Options{Format: accesslog.JSON, Fields: []string{"key"}, Names: map[string]string{"key": "auth.key"}}, `{"time":1790000000,"auth":{"key":"a\ud83d\ude00\n"}}`, "a\U0001f600\n"},
		{accesslog.Options{Format: accesslog.JSON, Fields: []string{"a.b"}}, `{"time":1790000000,"a.b":7}`, "7"},
		{accesslog.Options{Format: accesslog.JSON, Fields: []string{accesslog.ClientAddress}}, `{"time":1790000000,"client_address":"[2001:db8::1]:443"}`, "2001:db8::1"},
		{accesslog.Options{Format: accesslog.JSON, Fields: []string{accesslog.ClientAddress}}, `{"time":1790000000,"client_address":"2001:db8::1"}`, "2001:db8::1"},
		{accesslog.Options{Format: accesslog.CSV, Fields: []string{"key"}, Header: "time,b"}, "", `field "key": no column is called so; the columns are "time", "b". Name one, as in --field=key=COLUMN`},
	} {
		p, err := accesslog.NewParser(c.o)
		if err != nil {
			if err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			continue
		}
		var r accesslog.Record
		if problem := p.Parse([]byte(c.line), &r); problem != "" || string(r.Values[0]) != c.want {
			t.Errorf("%s: %q, %q, want %s", c.line, problem, r.Values, c.want)
		}
	}
}

func TestProblems(t *testing.T) {
	combined := strings.NewReplacer("21/Sep", "41/Sep").Replace(samples[accesslog.Combined][0])
	for _, c := range []struct {
		format accesslog.Format
		line   string
		want   accesslog.Problem
	}{
		{accesslog.Combined, "", accesslog.Nothing},
		{accesslog.Combined, "hello", accesslog.NotFormat},
		{accesslog.Combined, combined, accesslog.BadTime},
		{accesslog.JSON, `{"time":"now"}`, accesslog.BadTime},
		{accesslog.JSON, `{"time":99999999999999999999}`, accesslog.BadTime},
		{accesslog.JSON, `{"a":1}`, accesslog.NoTime},
		{accesslog.JSON, `{"a":1`, accesslog.NotJSON},
		{accesslog.JSON, `{"time":1790000000} {}`, accesslog.NotJSON},
		{accesslog.JSON, `[1]`, accesslog.NotJSON},
		{accesslog.JSON, strings.Repeat(`{"a":`, 1000) + "1", accesslog.NotJSON},
	} {
		p, err := accesslog.NewParser(accesslog.Options{Format: c.format})
		if err != nil {
			t.Fatal(err)
		}
		if problem := p.Parse([]byte(c.line), new(accesslog.Record)); problem != c.want {
			t.Errorf("%.100s: %q, want %q", c.line, problem, c.want)
		}
	}
}

func TestZones(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	p, err := accesslog.NewParser(accesslog.Options{Format: accesslog.JSON, Zone: berlin})
	if err != nil {
		t.Fatal(err)
	}
	for text, noZone := range map[string]bool{
		"2026-09-21 16:13:20": true, "2026-09-21T14:13:20Z": false, "2026-09-21T16:13:20+0200": false, "21/Sep/2026:10:13:20 -0400": false,
		"1790000000.000": false, "1790000000000000": false, "1790000000000000000": false, "1.79e9": false,
	} {
		var r accesslog.Record
		if problem := p.Parse([]byte(`{"time":"`+text+`"}`), &r); problem != "" || r.At != 1_790_000_000_000_000 || r.NoZone != noZone {
			t.Errorf("%s: %q, %d, without a zone: %v", text, problem, r.At, r.NoZone)
		}
	}
}

// TestLines reads lines of all lengths, packed or not.
func TestLines(t *testing.T) {
	long := strings.Repeat("x", accesslog.MaxLineBytes)
	text := "a\n\n" + long + "\n" + long + "y\nb\n" + long[1:] + "\nc"
	var zipped, packed bytes.Buffer
	w := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{w, z} {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for packing, b := range map[string][]byte{"": []byte(text), "gzip": zipped.Bytes(), "zstd": packed.Bytes()} {
		l, err := accesslog.NewBlocks(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var lengths []int
		var block accesslog.Block
		for {
			if block, err = l.Next(block.Bytes); errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if int(block.First) != len(lengths)+1 {
				t.Errorf("%q: line %d has the number %d", packing, len(lengths)+1, block.First)
			}
			for number, line := range block.Lines() {
				if int(number) != len(lengths)+1 {
					t.Errorf("%q: line %d has the number %d", packing, len(lengths)+1, number)
				}
				n := len(line)
				if block.TooLong {
					n = -1
				}
				lengths = append(lengths, n)
			}
		}
		l.Close()
		if !slices.Equal(lengths, []int{1, 0, accesslog.MaxLineBytes, -1, 1, accesslog.MaxLineBytes - 1, 1}) || l.Packing != packing || int(l.Number) != len(lengths) {
			t.Errorf("%q: %v, %q", packing, lengths, l.Packing)
		}
	}
}

// FuzzParse reads any line in all formats. What it finds is in the line, or short.
func FuzzParse(f *testing.F) {
	for _, all := range samples {
		for _, text := range all {
			f.Add("time,ip", text)
		}
	}
	f.Add(`"ti""me";x`, `"a""b";"`)
	f.Fuzz(func(t *testing.T, header, line string) {
		_, _ = accesslog.Detect([]string{header, line}, nil)
		for _, format := range accesslog.Formats {
			o := accesslog.Options{Format: format, Fields: []string{accesslog.ClientAddress, "path"}, Header: header, Names: map[string]string{"path": "a.b"}}
			p, err := accesslog.NewParser(o)
			if err != nil {
				continue // a CSV without such a column
			}
			var r accesslog.Record
			for range 2 { // its memory is used again
				if problem := p.Parse([]byte(line), &r); problem == accesslog.None && (r.At < 0 || r.At > 7_300_000_000_000_000) {
					t.Errorf("%s: the time %d", format, r.At)
				}
				for _, v := range r.Values {
					if len(v) > 3*len(line) {
						t.Errorf("%s: a value of %d bytes", format, len(v))
					}
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for format, all := range samples {
		lines := strings.Split(all[0], "\n")
		b.Run(string(format), func(b *testing.B) {
			p, err := accesslog.NewParser(accesslog.Options{Format: format, Fields: []string{accesslog.ClientAddress}, Header: lines[0]})
			if err != nil {
				b.Fatal(err)
			}
			var r accesslog.Record
			line := []byte(lines[len(lines)-1])
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				p.Parse(line, &r)
			}
		})
	}
}
