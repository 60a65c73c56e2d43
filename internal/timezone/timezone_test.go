package timezone

import (
	"strings"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Ust-Nera"} {
		zone, err := Load(name)
		if err != nil || zone.String() != name {
			t.Errorf("Load(%q) = %v, %v", name, zone, err)
		}
		if again, _ := Load(name); again != zone {
			t.Errorf("Load(%q) has read the zone twice", name)
		}
	}
	if zone, err := Load(""); zone != nil || err != nil {
		t.Errorf("no zone: %v, %v", zone, err)
	}
	for _, name := range []string{"Local", "Europe/Berlim", "../etc/passwd", "/etc/localtime", "Europe", ".", "a\x00b", " UTC", "Europe/Berlin\n", "tzdata.zi", strings.Repeat("a", 100)} {
		zone, err := Load(name)
		if err == nil || zone != nil {
			t.Errorf("Load(%q) = %v", name, zone)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "time_zone \"") || !strings.Contains(text, `"Europe/Berlin"`) || len(text) > 250 {
			t.Errorf("Load(%q): %q", name, text)
		}
	}
	before := knownN.Load()
	for range 100 {
		_, _ = Load("No/Where")
	}
	if knownN.Load() != before {
		t.Error("unknown names are kept")
	}
}

// TestEveryMachineHasZones has a zone with daylight saving time: not only a name.
func TestEveryMachineHasZones(t *testing.T) {
	zone, err := Load("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if _, offset := time.Date(2026, 7, 1, 0, 0, 0, 0, zone).Zone(); offset != 2*3600 {
		t.Errorf("an offset of %d in July", offset)
	}
}
