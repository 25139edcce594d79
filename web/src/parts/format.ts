/** Numbers and times as people read them. Pure. */

const UNITS = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'] as const;

/** A number of at most three digits that count: 48.4, 250, 1.2. */
export function short(value: number): string {
  const size = Math.abs(value);
  return value.toLocaleString('en', {
    maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : 2,
    useGrouping: false,
  });
}

/** Which unit a rate (bit/s) is best told in, and how many bits it is. */
export function rateUnit(bits: number): { unit: string; size: number } {
  let power = 0;
  while (power < UNITS.length - 1 && Math.abs(bits) >= 1000 ** (power + 1)) power += 1;
  return { unit: UNITS[power] as string, size: 1000 ** power };
}

export function rate(bits: number): string {
  const { unit, size } = rateUnit(bits);
  return `${short(bits / size)} ${unit}`;
}

/** Two rates in the unit of the greater one: 0.93 to 2.44 Gbit/s. */
export function rates(low: number, high: number, between: string): string {
  const { unit, size } = rateUnit(Math.max(low, high));
  return `${short(low / size)}${between}${short(high / size)} ${unit}`;
}

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  let left = count;
  while (left >= 1024 && power < units.length - 1) {
    left /= 1024;
    power += 1;
  }
  return `${short(left)} ${units[power]}`;
}

export function count(value: number): string {
  return value.toLocaleString('en');
}

/** How long something lasts: 4 s, 12 min, 3 h, 5 d. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 100 * 60) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** Date and time of this browser's zone, without what everybody knows. */
export function dateTime(seconds: number, language: string): string {
  return new Date(seconds * 1000).toLocaleString(language === 'en' ? 'en-GB' : language, {
    dateStyle: 'medium',
    timeStyle: 'short',
  });
}

export function clock(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString('en-GB');
}
