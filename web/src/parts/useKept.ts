import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { Problem } from '../api/client';
import { useTenant } from './hooks';

interface KeptProps<Found, Written, Saved> {
  /** What is read again when it is saved: alerts, budgets. */
  of: string;
  /** What one has seen of it; undefined: it is to be new. */
  found: Found | undefined;
  write: (written: Written, header: VersionHeader) => Promise<Saved>;
  /** As it is now, if there is one. */
  read: () => Promise<Found>;
  /** `before`: what was there until then, if anything. */
  done: (saved: Saved, before: Found | undefined) => void;
}

type VersionHeader = { 'if-match': string } | { 'if-none-match': string };

/** Saves something under the version that one has seen; `theirs` is what somebody else has written meanwhile. */
export function useKept<Found extends { version: number }, Written, Saved>({
  of,
  found,
  write,
  read,
  done,
}: KeptProps<Found, Written, Saved>) {
  const tenant = useTenant();
  const queries = useQueryClient();
  const [seen, setSeen] = useState(found);
  const [theirs, setTheirs] = useState<Found | undefined>();
  const save = useMutation({
    mutationFn: (written: Written) =>
      write(written, seen === undefined ? { 'if-none-match': '*' } : { 'if-match': `"${seen.version}"` }),
    onSuccess: async (saved) => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, of] });
      done(saved, seen);
    },
    onError: async (error) => {
      if (!(error instanceof Problem) || error.status !== 412) return;
      try {
        setTheirs(await read());
      } catch (gone) {
        // They have removed it: saving it again makes it anew.
        if (gone instanceof Problem && gone.status === 404) setSeen(undefined);
      }
    },
  });
  return {
    save,
    theirs,
    /** What was seen last; undefined: there is none. */
    seen,
    /** What one goes on from is theirs now, whichever was chosen. */
    goOn: () => {
      setSeen(theirs);
      setTheirs(undefined);
      save.reset();
    },
    forget: () => setTheirs(undefined),
  };
}
