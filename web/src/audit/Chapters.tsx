import { type AuditFinding, AuditChapter } from "../generated/endoscope/v1/audit_pb";
import { Picture } from "../parts/Picture";
import { CHAPTERS } from "./summaries";

const SHOWN = 8;

interface Props {
  asked: readonly AuditChapter[];
  findings: readonly AuditFinding[];
  /** The chapter at work, as steps name it; empty if none is. */
  current: string;
}

/** The chapters that were asked for: what is done, what is at work, what is to come. */
export function Chapters({ asked, findings, current }: Props) {
  return (
    <ol class="chapters" aria-label="Chapters">
      {CHAPTERS.filter(({ chapter }) => asked.includes(chapter)).map(({ chapter, name, title, found }) => {
        const finding = findings.find((one) => one.chapter === chapter);
        const state = finding ? (finding.notApplicable ? "none" : "done") : name === current ? "working" : "waiting";
        return (
          <li key={name} class={`chapter ${state}`} aria-current={state === "working" ? "step" : undefined}>
            <span class="chapter-mark" aria-hidden="true" />
            <h3>{title}</h3>
            <p class="small muted">
              {finding ? finding.notApplicable || found(finding.values ?? {}) : state === "working" ? "At work" : "To come"}
            </p>
            {finding && finding.pictures.length > 0 && (
              <ul class="chapter-pictures">
                {finding.pictures.slice(0, SHOWN).map((picture, index) => (
                  <li key={index} title={finding.captions[index]}>
                    <Picture image={picture} alt={finding.captions[index] ?? ""} crisp={picture.width < 96} />
                  </li>
                ))}
              </ul>
            )}
          </li>
        );
      })}
    </ol>
  );
}
