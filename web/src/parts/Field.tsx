import type { ReactNode } from 'react';

interface Aria {
  id: string;
  'aria-describedby': string | undefined;
  'aria-invalid': boolean;
}

interface FieldProps {
  id: string;
  label: string;
  hint?: string;
  wrong?: boolean;
  children: (aria: Aria) => ReactNode;
}

/** A part of a form with its label, and what may be written into it. */
export function Field({ id, label, hint, wrong = false, children }: FieldProps) {
  return (
    <div className="field" style={{ alignSelf: 'start' }}>
      <label htmlFor={id}>{label}</label>
      {children({ id, 'aria-describedby': hint ? `${id}-hint` : undefined, 'aria-invalid': wrong })}
      {hint && (
        <span className="sub" id={`${id}-hint`} style={wrong ? { color: 'var(--bad)' } : undefined}>
          {hint}
        </span>
      )}
    </div>
  );
}
